"""One task's circuit with the inputs of its heads."""

from recircuit.figures.circuit_graph import task_circuit
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    task = job.wildcards.circuit.rpartition("-")[2]
    figure = task_circuit(job.read("edges"), task, title(job.params.item, job.wildcards.model))
    save(figure, job.output, job.passport())


run(main, snakemake)
