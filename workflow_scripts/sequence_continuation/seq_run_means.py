"""E1: mean activations of heads and MLPs by position, over the corrupted prompts of each task and variant."""

from recircuit.experiments.sequence_continuation.baseline import means, write_means
from recircuit.study.compute import chunk_of, open_model
from recircuit.study.job import run
from recircuit.tasks.sequence_continuation import LENGTH


def main(job) -> None:
    model = open_model(job)
    found = means(model, job.read("prompts"), chunk_of(job, model, LENGTH), job.log)
    write_means(job.output.means, found, job.passport())


run(main, snakemake)
