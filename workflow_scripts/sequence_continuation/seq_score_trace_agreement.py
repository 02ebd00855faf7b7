"""E2 and E4: every published pruning step and single ablation beside ours."""

import pandas as pd

from recircuit.experiments.sequence_continuation.agreement import (
    published_singles,
    published_traces,
    single_agreement,
    summarise,
    trace_agreement,
)
from recircuit.study.job import run


def main(job) -> None:
    name = job.wildcards.model
    trace = pd.concat([job.read("node_trace", path) for path in job.input.node_trace])
    parts = [
        trace_agreement(trace, published_traces(name)),
        single_agreement(job.read("single_ablation"), published_singles(name)),
    ]
    rows = pd.concat(parts, ignore_index=True)
    job.write("agreement", rows.assign(model=name))
    for found in summarise(rows).itertuples():
        parted = "" if found.agreeing == found.steps else f", apart first at step {found.first_off}"
        job.log(f"{found.task} {found.run}: {found.agreeing} of {found.steps} agree, worst {found.worst:.4f}{parted}")


run(main, snakemake)
