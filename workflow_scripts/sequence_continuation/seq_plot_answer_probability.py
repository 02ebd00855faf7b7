"""Histograms of the probability of the answer, per task and template."""

from recircuit.figures.sequence_curves import answer_probability
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    heading = title(job.params.item, job.wildcards.model)
    figure = answer_probability(job.read("baseline"), job.read("prompts"), heading)
    save(figure, job.output, job.passport())


run(main, snakemake)
