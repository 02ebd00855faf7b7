"""Cosines of what heads write, heads along the direction, and gradients beside it."""

from recircuit.figures.sentiment.head_outputs import head_item
from recircuit.figures.style import save, title
from recircuit.study.job import run

TABLES = ("se_circuit", "se_positions", "se_head_cosines", "se_localised", "se_gradients")


def main(job) -> None:
    heading = title(job.params.item, job.wildcards.model)
    tables = {name: job.read(name) for name in TABLES}
    save(head_item(job.wildcards.outputs, tables, heading), job.output, job.passport())


run(main, snakemake)
