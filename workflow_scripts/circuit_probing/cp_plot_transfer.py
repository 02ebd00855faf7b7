"""How soon the trained model and an untrained one learn one of its variables."""

from recircuit.figures.circuit_probing.probes import transfer
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    save(transfer(job.read("cp_transfer"), title(job.params.item, "disambiguation")), job.output, job.passport())


run(main, snakemake)
