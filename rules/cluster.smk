# On a cluster: jobs too short to be submitted, what is asked for at the next attempt, and what a run that failed says.
from recircuit.study import cluster

try:
    cluster.check_profile(sys.argv)
except UserError as error:
    raise WorkflowError(str(error))

# Jobs that take 3 to 26 seconds for the embedded models run where Snakemake does; for all other models they are submitted.
EMBEDDED = not (GPU or HUB or LOCAL)


def growing(amount):
    """Resource function: an amount for the first attempt, twice as much for the second."""

    def resolve(wildcards, attempt):
        return amount * attempt

    return resolve


onerror:
    cluster.explain(log)
