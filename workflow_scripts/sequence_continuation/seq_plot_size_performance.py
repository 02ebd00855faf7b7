"""Size of the circuits against their scores, beside random ones."""

from recircuit.figures.sequence_continuation import size_performance
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    heading = title(job.params.item, job.wildcards.model)
    figure = size_performance(job.read("circuit_scores"), job.spec["threshold"], heading)
    save(figure, job.output, job.passport())


run(main, snakemake)
