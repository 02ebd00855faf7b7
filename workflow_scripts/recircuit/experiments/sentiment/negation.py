"""Negation: how far the activation of a negated word moves between an early and a late layer (spec 3.11)."""

from collections.abc import Mapping

import pandas as pd
import torch

from recircuit.core.errors import UserError
from recircuit.core.model import Model
from recircuit.experiments.sentiment.axes import FIRST
from recircuit.experiments.sentiment.running_text import DEEPEST, Directions, activations, axes_of
from recircuit.methods.direction_hooks import streams

COLUMNS = (
    "method", "negated", "item", "word", "weak", "layer_from", "layer_to", "a_from", "a_to", "mu", "sigma", "raw", "z",
    "flip_size",
)  # fmt: skip


def spread(stats: pd.DataFrame, method: str, last: int) -> tuple[float, float]:
    """Return mean and standard deviation of a method's cosines over running text, indices 0 to ``last`` pooled."""
    rows = stats[(stats["method"] == method) & (stats["layer_direction"] == FIRST) & (stats["layers"] == f"0-{last}")]
    if len(rows) != 1:
        raise UserError(f"the statistics of running text have {len(rows)} rows for '{method}' at layers 0-{last}; expected one")
    return float(rows["mean"].iloc[0]), float(rows["sd"].iloc[0])


def flip_size(a_from: float, a_to: float, mean: float) -> float:
    """Return how far an activation moved: 1/2 exactly to the mean, 1 mirrored at it, below 0 away from it."""
    return (a_to - a_from) / (mean - a_from) / 2


@torch.inference_mode()
def negation(model: Model, sentences: Mapping[bool, pd.DataFrame], directions: Directions, stats: pd.DataFrame) -> pd.DataFrame:
    """Return ``se_negation``: the probed word's cosine with each layer-1 direction at index 1 and at 10, or the last if before.

    ``sentences`` are ``negation_table``: the negated ones (True), and the same words without a negation (False), which say what
    layers do to such a word anyway. Without sentences the table has no rows. ``raw`` is the difference, ``z`` its size in
    standard deviations of ``stats`` (``se_text_stats``), mu and sigma.
    """
    last = min(DEEPEST, model.spec.n_layers)
    axes, rows = axes_of(model, [own[FIRST] for own in directions.values()]), []
    listed = [(negated, sentence) for negated, table in sentences.items() for sentence in table.itertuples()]
    spreads = {method: spread(stats, method, last) for method in directions} if listed else {}
    for negated, sentence in listed:
        found = streams(model, torch.tensor([[int(i) for i in sentence.tokens]], device=model.device))
        before, after = (activations(model, found[i][0, sentence.position], axes)[0].tolist() for i in (FIRST, last))
        for method, a, b in zip(directions, before, after, strict=True):
            mean, sd = spreads[method]
            values = (a, b, mean, sd, b - a, abs(b - a) / sd, flip_size(a, b, mean))
            rows.append((method, negated, sentence.item, sentence.word, sentence.weak, FIRST, last, *values))
    return pd.DataFrame(rows, columns=COLUMNS)
