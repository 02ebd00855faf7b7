"""Exp. 1 and 2: counterfactual embeddings, streams that a probe reads as another value, patched into the model."""

from recircuit.experiments.circuit_probing.probes import embed_streams
from recircuit.study.arithmetic import named, open_runs
from recircuit.study.job import run


def main(job) -> None:
    table = embed_streams(open_runs(job), job.spec["seed"], job.spec["probe_epochs"], job.log)
    job.write("cp_embeddings", named(job, table))


run(main, snakemake)
