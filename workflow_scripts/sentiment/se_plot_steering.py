"""Texts written while steering: their labels, and examples."""

from recircuit.figures.sentiment.areas import steering_item
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    heading = title(job.params.item, job.wildcards.model)
    tables = {name: job.read(name) for name in ("se_steering",)}
    save(steering_item(job.wildcards.steering, tables, heading), job.output, job.passport())


run(main, snakemake)
