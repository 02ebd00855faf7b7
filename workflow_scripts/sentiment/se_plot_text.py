"""Tokens with extreme activations, groups of words, AUC by layer."""

from recircuit.figures.sentiment.text import text_item
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    heading = title(job.params.item, job.wildcards.model)
    tables = {name: job.read(name) for name in ("se_token_stats", "se_text_hist", "se_text_auc")}
    save(text_item(job.wildcards.text, tables, heading), job.output, job.passport())


run(main, snakemake)
