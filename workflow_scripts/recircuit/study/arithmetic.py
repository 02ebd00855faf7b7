"""Open an arithmetic experiment in a job: its checkpoints, where the job runs, and its rows."""

from collections.abc import Iterator

import pandas as pd

from recircuit.experiments.circuit_probing.arithmetic import Run, parts_of, runs_of
from recircuit.study.compute import device_of
from recircuit.study.job import Job
from recircuit.study.resume import read_checkpoints


def open_runs(job: Job) -> Iterator[Run]:
    """Yield the job's checkpoints with the parts of their experiment."""
    device = device_of(job)
    found = read_checkpoints(job.input.checkpoints)
    models = {key: found.model(*key).to(device=device) for key in found.weights}
    return runs_of(models, parts_of(job.read("cp_rows"), job.read("cp_variables"), device))


def named(job: Job, table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with its model: the experiment and the epochs that it was trained for, such as ``grokking-20000``."""
    return table.assign(model=f"{job.wildcards.experiment}-{table['epoch'].max()}")
