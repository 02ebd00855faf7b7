"""Figure 2 and the heatmaps of patched models."""

from recircuit.figures.greater_than.heatmaps import heatmap_item
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    heading = title(job.params.item, job.wildcards.model)
    published = job.wildcards.model == "gpt2-small"
    tables = {name: job.read(name) for name in ("year_heatmap", "behaviour", "circuit_eval")}
    figure = heatmap_item(job.wildcards.heatmap, tables, heading, published=published)
    save(figure, job.output, job.passport())


run(main, snakemake)
