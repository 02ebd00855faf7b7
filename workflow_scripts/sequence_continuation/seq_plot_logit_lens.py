"""TA1: the likeliest tokens after each block, for three bare sequences."""

from recircuit.figures.lens_tables import logit_lens
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    heading = title(job.params.item, job.wildcards.model)
    figure = logit_lens(job.read("logit_lens"), job.read("logit_lens_count"), heading)
    save(figure, job.output, job.passport())


run(main, snakemake)
