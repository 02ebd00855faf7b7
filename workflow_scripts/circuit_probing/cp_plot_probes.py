"""Exp. 1 and 2: test accuracy of the three read-outs, by variable."""

from recircuit.figures.circuit_probing.probes import bars
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    component = "attn" if job.wildcards.readout.endswith("attention") else "mlp"
    task = next((n for n in (1, 2) if f"task-{n}" in job.wildcards.readout), 0)
    heading = title(job.params.item, job.wildcards.experiment)
    save(bars(job.read("cp_runs"), job.read("cp_probes"), component, task, heading), job.output, job.passport())


run(main, snakemake)
