"""The circuit alone, the rest alone, random circuits: bars, and all numbers."""

from recircuit.figures.sentiment.sufficiency import sufficiency_item
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    heading = title(job.params.item, job.wildcards.model)
    save(sufficiency_item(job.wildcards.sufficiency, job.read("se_sufficiency"), heading), job.output, job.passport())


run(main, snakemake)
