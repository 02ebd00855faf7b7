"""E12: accuracies of the knock-outs with Wilson intervals, and paired tests against random heads; from a table alone."""

from recircuit.experiments.sequence_continuation.llama_scores import knockout_scores
from recircuit.study.job import run


def main(job) -> None:
    scores = knockout_scores(job.read("knockouts"))
    job.write("knockout_scores", scores.assign(model=job.wildcards.model))


run(main, snakemake)
