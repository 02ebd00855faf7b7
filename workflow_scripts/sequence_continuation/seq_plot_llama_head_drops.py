"""Table 2: what each head is worth to the circuits of the Llama part."""

import pandas as pd

from recircuit.figures.knockouts import llama_head_drops
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    heading = title(job.params.item, job.wildcards.model)
    llama_drops = pd.concat([job.read("llama_drops", path) for path in job.input.llama_drops])
    figure = llama_head_drops(llama_drops, heading)
    save(figure, job.output, job.passport())


run(main, snakemake)
