"""Metrics over the hundred two-digit years (greater-than, E0): always one value per prompt, never all logits at once."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from recircuit.core.model import Model, unembed

ROWS = 1024  # rows of logits at once: 0.2 GB of GPT-2's vocabulary in float32


@torch.inference_mode()
def year_probabilities(
    model: Model, x: Float[Tensor, "*b d"], ids: Int[Tensor, " y"], rows: int = ROWS
) -> Float[Tensor, "*b y"]:
    """Return the probabilities of the year tokens, a softmax over the whole vocabulary, from the final residual stream."""
    flat = x.reshape(-1, x.shape[-1])
    parts = [_probabilities(unembed(model, part), ids) for part in flat.split(rows)]
    return torch.cat(parts).view(*x.shape[:-1], len(ids))


@torch.inference_mode()
def year_stats(
    model: Model, x: Float[Tensor, "n d"], ids: Int[Tensor, " y"], rows: int = ROWS
) -> tuple[Float[Tensor, "n y"], Int[Tensor, " n"]]:
    """Return the probabilities of the year tokens and the most likely token of the whole vocabulary."""
    found = []
    for part in x.split(rows):
        logits = unembed(model, part)
        found.append((_probabilities(logits, ids), logits.argmax(-1)))
    p, top = zip(*found, strict=True)
    return torch.cat(p), torch.cat(top)


def _probabilities(logits: Float[Tensor, "r V"], ids: Tensor) -> Float[Tensor, "r y"]:
    return (logits[:, ids] - logits.logsumexp(-1, keepdim=True)).exp()


def probability_difference(p: Float[Tensor, "*b n y"], yy: Int[Tensor, " n"], direction: str = "gt") -> Float[Tensor, "*b n"]:
    """Return the probability of the years beyond YY minus that of the others, YY among these (``gt``: above, ``lt``: below)."""
    years = torch.arange(p.shape[-1], device=p.device)
    right = years > yy[:, None] if direction == "gt" else years < yy[:, None]
    return (p * torch.where(right, 1.0, -1.0).to(p.dtype)).sum(-1)


def cutoff_sharpness(p: Float[Tensor, "*b n y"], yy: Int[Tensor, " n"]) -> Float[Tensor, "*b n"]:
    """Return p[YY + 1] - p[YY - 1]; YY must have both neighbours."""
    rows = torch.arange(len(yy), device=p.device)
    return p[..., rows, yy + 1] - p[..., rows, yy - 1]


def collate(values: Float[np.ndarray, "n y"], yy: Int[np.ndarray, " n"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the distinct YY in order, the mean of the rows with each, and how many rows it has."""
    found, index, counts = np.unique(yy, return_inverse=True, return_counts=True)
    sums = np.zeros((len(found), values.shape[1]))
    np.add.at(sums, index, values.astype(np.float64))
    return found, sums / counts[:, None], counts
