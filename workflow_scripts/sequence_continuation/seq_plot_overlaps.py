"""TL3: what the published circuits of Llama-2 share."""

from recircuit.figures.sequence_continuation import overlap_matrix
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    heading = title(job.params.item, job.wildcards.model)
    figure = overlap_matrix(job.read("overlaps"), heading)
    save(figure, job.output, job.passport())


run(main, snakemake)
