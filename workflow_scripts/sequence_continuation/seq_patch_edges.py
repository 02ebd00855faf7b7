"""E6: every edge of the circuits patched alone."""

import pandas as pd

from recircuit.experiments.sequence_continuation.edges import patched_edges
from recircuit.experiments.sequence_continuation.setting import Setting
from recircuit.study.compute import chunk_of, open_model
from recircuit.study.job import run
from recircuit.tasks.sequence_continuation import LENGTH


def main(job) -> None:
    model, variant = open_model(job), job.wildcards.variant
    setting = Setting(model, job.read("prompts"), job.input.means, chunk_of(job, model, LENGTH))
    trace = pd.concat([job.read("node_trace", path) for path in job.input.node_trace])
    choice = {key: job.spec[key] for key in ("seed", "threshold", "edge_threshold", "bootstrap_draws")}
    rows = patched_edges(setting, trace, variant, **choice, log=job.log)
    job.write("edges", rows.assign(model=job.wildcards.model, variant=variant))


run(main, snakemake)
