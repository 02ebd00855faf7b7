"""TL2: word problems and plain text, heads knocked out."""

from recircuit.figures.generations import word_problems
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    heading = title(job.params.item, job.wildcards.model)
    figure = word_problems(job.read("knockout_scores"), job.read("knockouts"), heading)
    save(figure, job.output, job.passport())


run(main, snakemake)
