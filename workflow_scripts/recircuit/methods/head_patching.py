"""Many heads patched at once: what some heads write at some positions in the clean run, put into another run.

Sentiment, section 3.5 (item 7). A *cell* is a head at a position; ``cells`` [L T H] says which carry the clean run. Two runs to
put it into: that of the corrupted prompts, whose other heads go on attending, and the clean one whose other heads write their
mean over prompts. With ``frames`` a cell carries the clean run along some directions alone: base + P (clean - base). MLPs are
recomputed throughout.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recircuit.core.model import Model, attend, attention_out, embed, mlp, mlp_input, project
from recircuit.methods.direction_hooks import Past
from recircuit.runs.forward import Cache, run_with_cache

# Of a layer and z [n S H e]: what cells outside, and cells inside, write without the clean run, and what they write with it.
Parts = Callable[[int, Tensor], tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True)
class Runs:
    """Plain runs of clean and corrupted prompts [n T], and what is the same in all of them: the positions before ``start``."""

    clean: Tensor
    corrupted: Tensor
    of_clean: Cache
    of_corrupted: Cache
    past: Past

    @classmethod
    def of(cls, model: Model, clean: Int[Tensor, "n T"], corrupted: Int[Tensor, "n T"], start: int = 0) -> "Runs":
        """Run both. ``start``: positions before it hold the same tokens in all prompts of the data set."""
        caches = [run_with_cache(model, tokens) for tokens in (clean, corrupted)]
        return cls(clean, corrupted, *caches, Past.of(model, caches[0].x, start, range(model.spec.n_layers)))


def same_before(tokens: Int[Tensor, "n T"]) -> int:
    """Return the first position at which not all prompts have one token; the last one where all are the same."""
    differ = (tokens != tokens[0]).any(0).nonzero()
    return int(differ[0]) if len(differ) else tokens.shape[1] - 1


@torch.inference_mode()
def into_corrupted(
    model: Model, runs: Runs, cells: Bool[Tensor, "L T H"], frames: Float[Tensor, "L d k"] | None = None
) -> Float[Tensor, "n S d"]:
    """Return the final stream, from ``start`` on, of the corrupted prompts with the cells' clean outputs (resampling).

    Along a frame a cell writes its own output of the corrupted run plus the projection of the difference: each head's is
    computed from the two plain runs, so that nothing is added twice where several directions or heads are patched.
    """
    clean, corrupted = ([z[:, runs.past.start :] for z in cache.z] for cache in (runs.of_clean, runs.of_corrupted))
    return _run(model, runs.corrupted, cells, lambda layer, z: (z, corrupted[layer], clean[layer]), frames, runs.past)


@torch.inference_mode()
def among_means(
    model: Model,
    runs: Runs,
    cells: Bool[Tensor, "L T H"],
    means: Float[Tensor, "L 1 T H e"],
    frames: Float[Tensor, "L d k"] | None = None,
) -> Float[Tensor, "n S d"]:
    """Return the final stream, from ``start`` on, of the clean prompts in which all heads but the cells write their mean."""
    means = means[:, :, runs.past.start :]
    return _run(model, runs.clean, cells, lambda layer, z: (means[layer], means[layer], z), frames, runs.past)


def _run(
    model: Model, tokens: Tensor, cells: Tensor, parts: Parts, frames: Tensor | None, past: Past
) -> Float[Tensor, "n S d"]:
    start, every = past.start, torch.arange(tokens.shape[1], device=tokens.device)
    seen = (every <= every[start:, None]).expand(len(tokens), -1, -1)
    x = embed(model, tokens[:, start:], start)
    for layer, block in enumerate(model.blocks):
        q, k, v = project(model, layer, x, start=start)
        z = attend(q, *past.before(layer, k, v), seen)
        outside, base, value = parts(layer, z)
        inside = cells[layer, start:, :, None]
        if frames is None:
            write = attention_out(block.heads, torch.where(inside, value, outside).expand_as(z))
        else:
            write = attention_out(block.heads, torch.where(inside, base, outside).expand_as(z))
            change = attention_out(block.heads, (value - base) * inside)
            write = write + change @ frames[layer] @ frames[layer].mT
        mid = x + write + block.out_bias
        x = mid + mlp(model, layer, mlp_input(model, x, mid))
    return x
