# What status and prune ask of the rules: the jobs behind files, and all files of these.
from recircuit.study import plan


def jobs_behind(wanted):
    """Params function: the jobs behind files, with what each depends on now."""

    def resolve(wildcards):
        return plan.jobs(workflow.rules, wanted)

    return resolve


def files_behind(wanted):
    """Params function: all files of the jobs behind files, and of the rules that have no wildcards."""

    def resolve(wildcards):
        return plan.files(workflow.rules, wanted)

    return resolve
