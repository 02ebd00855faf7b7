"""What the circuits of the tasks share, against what random circuits of their sizes would."""

import pandas as pd

from recircuit.experiments.overlaps import circuit_sets, overlaps
from recircuit.study.job import run
from recircuit.tasks.sequence_continuation import TASKS


def main(job) -> None:
    circuits = pd.concat([job.read("circuits", path) for path in job.input.circuits])
    chosen = circuits[(circuits["run"] == "main") & (circuits["threshold"] == job.spec["threshold"])]
    rows = overlaps(circuit_sets(chosen), job.spec["layers"], job.spec["heads"], {"all": TASKS})
    job.write("overlaps", rows.assign(model=job.wildcards.model, variant=job.wildcards.variant))


run(main, snakemake)
