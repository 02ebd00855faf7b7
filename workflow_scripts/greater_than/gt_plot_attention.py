"""Figure 6, left, and attention to YY by year."""

from recircuit.figures.greater_than.lenses import attention_item
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    heading = title(job.params.item, job.wildcards.model)
    published = job.wildcards.model == "gpt2-small"
    tables = {name: job.read(name) for name in ("gt_attention", "gt_attention_yy", "gt_circuit")}
    figure = attention_item(job.wildcards.attention, tables, heading, published=published)
    save(figure, job.output, job.passport())


run(main, snakemake)
