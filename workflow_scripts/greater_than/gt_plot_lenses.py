"""Figures 6 (right) and 7, and direct effects: what the circuit's nodes write."""

from recircuit.figures.greater_than.lenses import lens_item
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    heading = title(job.params.item, job.wildcards.model)
    published = job.wildcards.model == "gpt2-small"
    tables = {name: job.read(name) for name in ("gt_lens", "gt_circuit")}
    figure = lens_item(job.wildcards.lens, tables, heading, published=published)
    save(figure, job.output, job.passport())


run(main, snakemake)
