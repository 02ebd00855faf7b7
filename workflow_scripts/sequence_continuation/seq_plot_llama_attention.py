"""Attention of a Llama model's shared heads on the paper's prompts."""

from recircuit.figures.attention_maps import llama_attention
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    figure = llama_attention(job.read("attention"), title(job.params.item, job.wildcards.model))
    save(figure, job.output, job.passport())


run(main, snakemake)
