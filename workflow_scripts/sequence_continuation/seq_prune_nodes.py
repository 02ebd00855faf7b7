"""E2: iterative node pruning of one task, at the paper's threshold and at others; every decision with its margin."""

from recircuit.experiments.sequence_continuation.pruning import prune
from recircuit.experiments.sequence_continuation.setting import Setting
from recircuit.study.compute import chunk_of, open_model
from recircuit.study.job import run
from recircuit.tasks.sequence_continuation import LENGTH


def main(job) -> None:
    model, (name, variant, task) = open_model(job), (job.wildcards[key] for key in ("model", "variant", "task"))
    setting = Setting(model, job.read("prompts"), job.input.means, chunk_of(job, model, LENGTH))
    thresholds = sorted({job.spec["threshold"], *job.spec["thresholds"]})
    protected = [job.spec["threshold"]] if task in job.spec["protected"] else []
    trace, circuits = prune(setting, task, variant, thresholds, protected, job.log)
    for table, rows in (("node_trace", trace), ("circuits", circuits)):
        job.write(table, rows.assign(model=name, task=task, variant=variant))


run(main, snakemake)
