"""Exp. 3: sizes and read-outs of the circuits at the last checkpoint."""

from recircuit.figures.circuit_probing.tables import causal
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    figure = causal("sizes", {"cp_runs": job.read("cp_runs")}, title(job.params.item, "grokking"))
    save(figure, job.output, job.passport())


run(main, snakemake)
