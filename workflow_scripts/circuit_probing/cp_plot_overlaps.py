"""Exp. 2: how the columns of the attention block divide between the circuits of the two tasks' free variables."""

from recircuit.figures.circuit_probing.tables import overlaps
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    rows = job.read("cp_overlaps")
    rows = rows[(rows["pair"] == "free: task 1 and task 2") & (rows["seed"] == rows["seed"].min())]
    level = "head" if job.wildcards.overlap.endswith("heads") else "matrix"
    figure = overlaps(rows, level, ("task 1", "task 2"), title(job.params.item, job.wildcards.experiment))
    save(figure, job.output, job.passport())


run(main, snakemake)
