"""Exp. 1 to 3: linear and non-linear probes of every checkpoint's streams."""

from recircuit.experiments.circuit_probing.probes import probe_streams
from recircuit.study.arithmetic import named, open_runs
from recircuit.study.job import run


def main(job) -> None:
    table = probe_streams(open_runs(job), job.spec["seed"], job.spec["probe_epochs"], job.log)
    job.write("cp_probes", named(job, table))


run(main, snakemake)
