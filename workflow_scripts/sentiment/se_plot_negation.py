"""How far negated words move along the directions, as tables."""

from recircuit.figures.sentiment.negation import negation_item
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    heading = title(job.params.item, job.wildcards.model)
    save(negation_item(job.wildcards.negation, job.read("se_negation"), heading), job.output, job.passport())


run(main, snakemake)
