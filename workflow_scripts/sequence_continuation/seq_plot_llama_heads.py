"""Appendix: every head of a Llama model ablated alone, layers by heads."""

import pandas as pd

from recircuit.figures.knockouts import llama_heads
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    heading = title(job.params.item, job.wildcards.model)
    llama_drops = pd.concat([job.read("llama_drops", path) for path in job.input.llama_drops])
    figure = llama_heads(llama_drops, heading)
    save(figure, job.output, job.passport())


run(main, snakemake)
