"""The loss on running text without a direction, and the tokens that it concerns."""

from recircuit.figures.sentiment.text import loss_item
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    heading = title(job.params.item, job.wildcards.model)
    tables = {name: job.read(name) for name in ("se_text_loss", "se_text_loss_tokens")}
    save(loss_item(job.wildcards.loss, tables, heading), job.output, job.passport())


run(main, snakemake)
