"""Table 1: what each head is worth to the circuits."""

from recircuit.figures.sequence_continuation import head_drops
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    heading = title(job.params.item, job.wildcards.model)
    figure = head_drops(job.read("head_drop"), job.read("single_ablation"), heading)
    save(figure, job.output, job.passport())


run(main, snakemake)
