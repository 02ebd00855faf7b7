"""Appendix: histogram of what single heads are worth to the full model."""

from recircuit.figures.sequence_continuation import ablation_histogram
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    heading = title(job.params.item, job.wildcards.model)
    figure = ablation_histogram(job.read("single_ablation"), job.wildcards.histogram.rpartition("-")[2], heading)
    save(figure, job.output, job.passport())


run(main, snakemake)
