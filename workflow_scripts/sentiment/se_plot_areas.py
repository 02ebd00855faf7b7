"""Figure 2b: labels by activation, and the accuracy in the tails."""

from recircuit.figures.sentiment.areas import area_item
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    heading = title(job.params.item, job.wildcards.model)
    tables = {name: job.read(name) for name in ("se_text_samples", "se_text_hist", "se_text_accuracy")}
    save(area_item(job.wildcards.areas, tables, heading), job.output, job.passport())


run(main, snakemake)
