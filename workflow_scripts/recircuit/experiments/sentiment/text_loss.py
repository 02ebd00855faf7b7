"""What the loss on running text costs when a direction's projection comes from another row (spec 3.13).

The stream leaving every layer is edited, 64 rows at a time with a fresh permutation for each layer; every direction meets the
same permutations, so that differences are of the directions alone.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from recircuit.core.model import Model
from recircuit.core.stats import stream
from recircuit.experiments.sentiment.axes import ALIGNMENTS, METHODS, Axes
from recircuit.experiments.sentiment.setting import Log
from recircuit.experiments.sentiment.text_labels import LABELS
from recircuit.experiments.sentiment.text_statistics import FEWEST
from recircuit.methods.direction_hooks import centred_width, edited_stream, next_token_losses, partners, resample, streams
from recircuit.methods.directions import random_directions, unit

BATCH = 64  # rows that exchange projections, as published
RANDOM_SEEDS = (1, 2, 3, 4)
BASELINE, RANDOM = ("none", "none", 0), "random"
SHOWN = 20  # tokens whose loss grows most

Key = tuple[str, str, int]  # direction, alignment, seed


def stacks(model: Model, axes: Axes) -> dict[Key, Float[Tensor, "L d"]]:
    """Return the unit vectors whose projection is exchanged after each layer.

    The direction of layer 1 after all layers, each layer's own, and random ones.
    """
    layers, width = model.spec.n_layers, model.spec.d_model
    found = {(method, alignment, 0): axes.stack(method, alignment) for method in METHODS for alignment in ALIGNMENTS}
    drawn = {seed: random_directions(1, width, seed).to(model.device, model.dtype) for seed in RANDOM_SEEDS}
    found |= {(RANDOM, ALIGNMENTS[0], seed): vector.expand(layers, -1) for seed, vector in drawn.items()}
    return {key: unit(centred_width(model, stack)) for key, stack in found.items()}


@torch.inference_mode()
def losses(
    model: Model, tokens: Int[np.ndarray, "n T"], directions: Mapping[Key, Tensor], seed: int, log: Log
) -> dict[Key, Float[np.ndarray, "n T-1"]]:
    """Return the loss of every token but the first of each row, as the model is and with each direction's projections moved."""
    found = {key: [] for key in (BASELINE, *directions)}
    for batch, ids in _batches(tokens):
        ids = ids.to(model.device)
        others = partners(len(ids), model.spec.n_layers, int(stream(seed, "moved projections", batch).integers(2**31)))
        found[BASELINE].append(next_token_losses(model, streams(model, ids)[-1], ids))
        for key, stack in directions.items():
            found[key].append(next_token_losses(model, edited_stream(model, ids, resample(stack, others)), ids))
    done = {key: torch.cat(parts).cpu().numpy() for key, parts in found.items()}
    log(f"{len(tokens)} rows, loss {done[BASELINE].mean():.4f} nat per token")
    return done


def _batches(tokens: np.ndarray) -> Iterator[tuple[int, Tensor]]:
    for start in range(0, len(tokens), BATCH):
        yield start // BATCH, torch.from_numpy(tokens[start : start + BATCH]).long()


# ---- tables ---------------------------------------------------------------------------------------------------------


def loss_table(found: Mapping[Key, np.ndarray], codes: Int[np.ndarray, "n T"]) -> pd.DataFrame:
    """Return ``se_text_loss``: loss and its increase, of all tokens and of those with each label, with standard errors.

    A label's mean is a ratio, of a sum over rows to a number of tokens; its error over rows is that of the linearised ratio.
    """
    targets, rows = codes[:, 1:], []
    masks = {"all": np.ones(targets.shape, bool)} | {label: targets == code for code, label in enumerate(LABELS)}
    for subset, mask in masks.items():
        counts = mask.sum(1)
        if not counts.any():
            continue
        for (direction, alignment, seed), values in found.items():
            delta, error = ratio(((values.astype(np.float64) - found[BASELINE]) * mask).sum(1), counts)
            loss, _ = ratio((values.astype(np.float64) * mask).sum(1), counts)
            rows.append((direction, alignment, seed, subset, int(counts.sum()), len(mask), loss, delta, error))
    columns = ["direction", "alignment", "seed", "subset", "n_tokens", "n_rows", "loss", "delta", "se"]
    return pd.DataFrame(rows, columns=columns)


def ratio(sums: Float[np.ndarray, " n"], counts: Int[np.ndarray, " n"]) -> tuple[float, float]:
    """Return the ratio of two sums over rows, and its standard error (0 of a single row)."""
    n, value = len(sums), float(sums.sum() / counts.sum())
    if n == 1:
        return value, 0.0
    return value, float(np.std(sums - value * counts, ddof=1) / (np.sqrt(n) * counts.mean()))


def token_table(found: Mapping[Key, np.ndarray], tokens: Int[np.ndarray, "n T"]) -> pd.DataFrame:
    """Return ``se_text_loss_tokens``: the next tokens whose loss grows most, of those that occur often enough.

    ``delta_random`` is the growth of the same token's loss with random directions, on average.
    """
    targets = tokens[:, 1:].ravel()
    counts = np.bincount(targets)
    seen = np.maximum(counts, 1)
    means = {key: np.bincount(targets, values.ravel().astype(np.float64)) / seen for key, values in found.items()}
    chance = np.mean([mean for key, mean in means.items() if key[0] == RANDOM], 0) - means[BASELINE]
    common, parts = np.flatnonzero(counts >= FEWEST), []
    for (direction, alignment, _), mean in means.items():
        if direction in METHODS:
            delta = mean - means[BASELINE]
            first = common[np.argsort(-delta[common], kind="stable")][:SHOWN]
            parts.append(pd.DataFrame({
                "direction": direction, "alignment": alignment, "rank": range(1, len(first) + 1), "token_id": first,
                "count": counts[first], "loss": means[BASELINE][first], "delta": delta[first], "delta_random": chance[first],
            }))  # fmt: skip
    return pd.concat(parts, ignore_index=True)
