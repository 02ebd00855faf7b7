"""Exp. 1 to 3: LEACE erasers of every variable from every checkpoint's streams."""

from recircuit.experiments.circuit_probing.erasure import erase_all
from recircuit.study.arithmetic import named, open_runs
from recircuit.study.job import run


def main(job) -> None:
    table = erase_all(open_runs(job), job.spec["seed"], job.spec["probe_epochs"], job.log, splits=("train", "test"))
    job.write("cp_amnesic", named(job, table))


run(main, snakemake)
