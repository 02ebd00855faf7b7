"""Reviews without the direction: the table, intervals, controls, the commas' distance, and which reviews are kept."""

from recircuit.figures.sentiment.ablation import ablation_item
from recircuit.figures.style import save, title
from recircuit.study.job import run

PUBLISHED = "pythia-2.8b"  # whose points are known


def main(job) -> None:
    heading, names = title(job.params.item, job.wildcards.model), ("se_examples", "se_ablation", "se_ablation_summary")
    tables = {name: job.read(name) for name in (*names, "se_comma_distance")}
    figure = ablation_item(job.wildcards.ablation, tables, heading, published=job.wildcards.model == PUBLISHED)
    save(figure, job.output, job.passport())


run(main, snakemake)
