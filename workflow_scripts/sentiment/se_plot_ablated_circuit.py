"""The circuit with a direction set to its mean, as heat-maps."""

from recircuit.figures.sentiment.ablated_circuit import ablated_item
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    heading = title(job.params.item, job.wildcards.model)
    tables = {name: job.read(name) for name in ("se_ablated_circuit", "se_positions")}
    save(ablated_item(job.wildcards.ablated, tables, heading), job.output, job.passport())


run(main, snakemake)
