"""Attention patterns of all heads, or of some: mean and spread over prompts, one layer of a few prompts at a time."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recircuit.core.model import Model, embed, project, select_heads
from recircuit.runs.budget import BLOCK, in_chunks
from recircuit.runs.forward import layer_step

HeadName = tuple[int, int]  # layer, head


class PatternStats(NamedTuple):
    """Attention of ``heads`` (K of them) from query to key positions: mean and population standard deviation, float64."""

    heads: tuple[HeadName, ...]
    mean: Float[Tensor, "K T T"]
    sd: Float[Tensor, "K T T"]


def pattern(
    model: Model, layer: int, x: Float[Tensor, "n T d"], heads: Sequence[int] | None = None
) -> Float[Tensor, "n H T T"]:
    """Return the softmax pattern [n H query key] of a layer, for the residual stream entering it."""
    return pattern_of(*project(model, layer, x, None if heads is None else select_heads(model, layer, heads))[:2])


def pattern_of(q: Float[Tensor, "n H T e"], k: Float[Tensor, "n H T e"]) -> Float[Tensor, "n H T T"]:
    """Return the causal softmax pattern of queries and keys."""
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
    # In float32 at least, as in transformers.
    return scores.to(torch.promote_types(scores.dtype, torch.float32)).masked_fill(future, -torch.inf).softmax(-1)


@torch.inference_mode()
def pattern_stats(
    model: Model, tokens: Int[Tensor, "n T"], chunk: int, heads: Sequence[HeadName] | None = None
) -> PatternStats:
    """Return the mean and spread over prompts of the patterns of some heads (all by default), ordered by layer and head.

    Sequence continuation, section 3 (E7). Whole patterns are kept of one layer and chunk only; the sums do not depend on the
    chunk.
    """
    spec = model.spec
    chosen = sorted(heads) if heads is not None else [(l, h) for l in range(spec.n_layers) for h in range(spec.n_heads)]
    # Deviations from one prompt, not from zero: squares of numbers near 1 would drown a small spread.
    origin = torch.cat([p.double()[0] for p in _patterns(model, tokens[:1], chosen)])
    total = torch.zeros(2, *origin.shape, dtype=torch.float64, device=origin.device)

    def work(rows: slice) -> Float[Tensor, "b two K T T"]:
        sums, first = [], 0
        for found in _patterns(model, tokens[rows], chosen):
            base = origin[first : first + found.shape[1]]
            blocks = [block.double() - base for block in found.split(BLOCK)]
            sums.append(torch.stack([torch.stack([d.sum(0), d.square().sum(0)]) for d in blocks]))
            first += found.shape[1]
        return torch.cat(sums, 2)

    for _, parts in in_chunks(work, len(tokens), chunk):
        for part in parts:
            total += part
    shift, square = total / len(tokens)
    return PatternStats(tuple(chosen), origin + shift, (square - shift.square()).clamp(min=0).sqrt())


def _patterns(model: Model, tokens: Tensor, chosen: Sequence[HeadName]):
    """Yield the patterns [n h T T] of each layer that has a chosen head, in order."""
    x, last = embed(model, tokens), max(layer for layer, _ in chosen)
    for layer in range(last + 1):
        wanted = [h for l, h in chosen if l == layer]
        if wanted:
            yield pattern(model, layer, x, wanted)
        if layer < last:
            x = layer_step(model, layer, x)[0]
