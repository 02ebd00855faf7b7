"""Table 3: sequences with other intervals, heads knocked out."""

from recircuit.figures.knockouts import knockout_table
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    heading = title(job.params.item, job.wildcards.model)
    figure = knockout_table(job.read("knockout_scores"), "interval", heading)
    save(figure, job.output, job.passport())


run(main, snakemake)
