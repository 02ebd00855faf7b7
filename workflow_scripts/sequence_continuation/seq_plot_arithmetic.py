"""TL1: sums and differences, heads knocked out."""

from recircuit.figures.knockouts import knockout_table
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    heading = title(job.params.item, job.wildcards.model)
    figure = knockout_table(job.read("knockout_scores"), "arithmetic", heading)
    save(figure, job.output, job.passport())


run(main, snakemake)
