"""How the one-layer models are trained: their start, their recipe and their rows (spec 1.2)."""

from collections.abc import Mapping

import pandas as pd
import torch

from recircuit.core.model import Model
from recircuit.methods.full_batch import Recipe, Rows
from recircuit.methods.one_layer import published_initial, spec_of
from recircuit.tasks.arithmetic import EXPERIMENTS, tokens_of


def start_of(name: str, seed: int) -> Model:
    """Return the untrained model of an experiment."""
    experiment = EXPERIMENTS[name]
    return published_initial(spec_of(experiment.n_vocab, experiment.context), seed)


def recipe_of(choice: Mapping) -> Recipe:
    """Return the recipe of a configuration: epochs, how often to evaluate, and the checkpoints beside the last epoch."""
    kept = frozenset({*choice.get("checkpoints", ()), choice["epochs"]})
    return Recipe(choice["epochs"], choice["evaluate_every"], kept)


def train_rows(rows: pd.DataFrame, device: torch.device | str) -> tuple[Rows, Rows]:
    """Return the training and the test rows: task after task, each in the order of its table."""
    parts = (rows[rows["split"] == split].sort_values(["task", "row"]) for split in ("train", "test"))
    train, test = (Rows.of(tokens_of(p), torch.tensor(p["answer"].to_numpy("int64")), device) for p in parts)
    return train, test
