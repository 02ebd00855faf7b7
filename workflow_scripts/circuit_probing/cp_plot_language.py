"""Exp. 4: ablations and read-outs of the circuits of a task in a language model."""

from recircuit.figures.circuit_probing.language import task_figure
from recircuit.figures.style import save, title
from recircuit.study.job import run

TASKS = {"subject-verb": "agreement", "reflexives": "reflexives", "syntactic-number": "number"}


def main(job) -> None:
    task = next(name for part, name in TASKS.items() if part in job.wildcards.language)
    runs, ablations = (rows[rows["task"] == task] for rows in (job.read("cp_lm_runs"), job.read("cp_lm_ablations")))
    figure = task_figure(runs, ablations, title(job.params.item, job.wildcards.model))
    save(figure, job.output, job.passport())


run(main, snakemake)
