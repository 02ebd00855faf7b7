"""Appendix: probability of the next numeral against the length of the sequence."""

from recircuit.figures.sequence_curves import lengths
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    heading = title(job.params.item, job.wildcards.model)
    figure = lengths(job.read("seq_len"), heading)
    save(figure, job.output, job.passport())


run(main, snakemake)
