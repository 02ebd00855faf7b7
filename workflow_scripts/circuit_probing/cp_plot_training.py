"""Training curves of an arithmetic model."""

from recircuit.figures.circuit_probing.probes import training
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    heading = title(job.params.item, job.wildcards.experiment)
    save(training(job.read("cp_curves"), heading), job.output, job.passport())


run(main, snakemake)
