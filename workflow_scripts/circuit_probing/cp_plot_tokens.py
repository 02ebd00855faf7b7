"""Exp. 4: the likeliest next words with and without a circuit."""

from recircuit.figures.circuit_probing.language import next_tokens
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    rows = job.read("cp_lm_tokens")
    figure = next_tokens(rows[rows["task"] == "agreement"], title(job.params.item, job.wildcards.model))
    save(figure, job.output, job.passport())


run(main, snakemake)
