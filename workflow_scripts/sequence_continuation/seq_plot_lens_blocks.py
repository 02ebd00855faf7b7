"""Where in the model the answer becomes the most likely token."""

from recircuit.figures.sequence_curves import lens_blocks
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    heading = title(job.params.item, job.wildcards.model)
    figure = lens_blocks(job.read("logit_lens_blocks"), heading)
    save(figure, job.output, job.passport())


run(main, snakemake)
