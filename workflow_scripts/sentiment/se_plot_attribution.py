"""Logit lens and direct attribution, attention of the heads, and the scatter of direct heads (spec 3.5, 3.6)."""

from recircuit.figures.sentiment.circuit_attribution import attribution_item
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    tables = {name: job.read(name) for name in ("se_dla", "se_attention", "se_head_scatter")}
    figure = attribution_item(job.wildcards.attribution, tables, title(job.params.item, job.wildcards.model))
    save(figure, job.output, job.passport())


run(main, snakemake)
