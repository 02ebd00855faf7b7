"""Exp. 3: test accuracy of a variable's three read-outs at each checkpoint."""

from recircuit.figures.circuit_probing.probes import along_training
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    component = "attn" if "attention" in job.wildcards.readout else "mlp"
    variable = "b2" if "selectivity" in job.wildcards.readout else "a2"
    heading = title(job.params.item, "grokking")
    figure = along_training(job.read("cp_runs"), job.read("cp_probes"), component, variable, heading)
    save(figure, job.output, job.passport())


run(main, snakemake)
