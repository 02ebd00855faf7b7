"""Open an arithmetic experiment in a job: its checkpoints, where the job runs, and its rows."""

from collections.abc import Iterator, Mapping

import pandas as pd

from recircuit.experiments.circuit_probing.arithmetic import Run, parts_of, runs_of
from recircuit.study.compute import device_of
from recircuit.study.job import Job
from recircuit.study.resume import read_checkpoints

GROKKING = {*range(100, 1000, 100), *range(1000, 10000, 1000), 10000, 12500, 15000, 17500, 20000}
PUBLISHED = {"disambiguation": {10000}, "shared_nodes": {10000}, "shared_nodes_independent": {10000}, "grokking": GROKKING}
RECIPES = {  # choices of the configuration that the paper made too (spec 1.2, 3.1, 3.4, 3.7)
    "mask_epochs": 90,
    "probe_epochs": 100,
    "alignment_epochs": 250,
    "transfer": {"a2": {"epochs": 50, "evaluate_every": 1}, "a_plus_b": {"epochs": 450, "evaluate_every": 1}},
}


def open_runs(job: Job) -> Iterator[Run]:
    """Yield the job's checkpoints with the parts of their experiment."""
    device = device_of(job)
    found = read_checkpoints(job.input.checkpoints)
    models = {key: found.model(*key).to(device=device) for key in found.weights}
    return runs_of(models, parts_of(job.read("cp_rows"), job.read("cp_variables"), device))


def named(job: Job, table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with its model: the experiment and the epochs that it was trained for, such as ``grokking-20000``.

    ``-altered`` follows where the epochs are the published ones but another choice is not, or seed 0, a checkpoint or an
    evaluation that was published is missing: no published number is about such a model.
    """
    experiment, epochs = job.wildcards.experiment, set(table["epoch"])
    altered = max(epochs) == max(PUBLISHED[experiment]) and not (
        epochs >= PUBLISHED[experiment] and 0 in set(table["seed"]) and as_published(job.spec)
    )
    return table.assign(model=f"{experiment}-{max(epochs)}" + "-altered" * altered)


def as_published(choices: Mapping) -> bool:
    """Return whether those choices that the paper made too are the same."""
    return all(choices[key] == value for key, value in RECIPES.items() if key in choices)
