"""What the circuits of the tasks share, against what random circuits of their sizes would."""

import pandas as pd

from recircuit.experiments.overlaps import circuit_sets, overlaps
from recircuit.study.job import run
from recircuit.tasks.sequence_continuation import TASKS


def main(job) -> None:
    trace = pd.concat([job.read("node_trace", path) for path in job.input.node_trace])
    shape = job.spec["layers"], job.spec["heads"]
    rows = overlaps(circuit_sets(trace, job.spec["threshold"], *shape), *shape, {"all": TASKS})
    job.write("overlaps", rows.assign(model=job.wildcards.model, variant=job.wildcards.variant))


run(main, snakemake)
