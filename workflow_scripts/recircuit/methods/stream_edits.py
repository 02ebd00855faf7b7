"""Runs whose stream is changed at some tokens after every layer, many of them on the same prompts (sentiment, section 3.8).

What ``direction_hooks.edited_differences`` does, sharing what such runs have in common: a run without changes up to the first
changed token and through layer 0, and in the last layer only the position that is read.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recircuit.core.model import Model, at, project
from recircuit.methods.direction_hooks import Change, close_layer, read, readout, streams

Projected = tuple[Tensor, Tensor, Tensor]


class Edit(NamedTuple):
    """A change of the stream leaving each layer, at the tokens of a mask [n T]; ``frozen``: heads attend as without it.

    It must treat every token by itself: a run knows only the tokens from the first changed one on.
    """

    change: Change
    mask: Bool[Tensor, "n T"]
    frozen: bool = False


@torch.inference_mode()
def edited_ends(
    model: Model, tokens: Int[Tensor, "n T"], end: Int[Tensor, " n"], answers: Int[Tensor, "n a 2"], edits: Sequence[Edit]
) -> Float[Tensor, "m n"]:
    """Return the logit differences of some prompts' runs with each edit; streams, queries, keys and values are all kept."""
    clean, vectors = streams(model, tokens), readout(model, answers)
    seen = {layer: project(model, layer, clean[layer]) for layer in range(1, model.spec.n_layers)}
    plain, found = read(model, at(clean[-1], end), vectors), []
    for edit in edits:
        changed = edit.mask.any(0).nonzero()
        if len(changed):
            start = min(int(changed[0]), int(end.min()))
            found.append(read(model, _run(model, clean[1], end, edit, seen, start), vectors))
        else:
            found.append(plain)
    return torch.stack(found) if found else plain.new_zeros(0, len(tokens))


def _run(
    model: Model, left: Tensor, end: Tensor, edit: Edit, seen: Mapping[int, Projected], start: int
) -> Float[Tensor, "n d"]:
    """Run from the stream leaving layer 0, [n T d], at the positions from ``start`` on; return the final stream at the end.

    ``seen`` are queries, keys and values of the run without changes, [n H T e], by layer.
    """
    mask, end, last = edit.mask[:, start:, None], end - start, model.spec.n_layers - 1
    x = torch.where(mask, edit.change(0, left[:, start:]), left[:, start:])
    for layer in range(1, last + 1):
        q, k, v = project(model, layer, x, start=start)
        old_q, old_k, old_v = seen[layer]
        q, k = (old_q[:, :, start:], old_k[:, :, start:]) if edit.frozen else (q, k)
        k, v = (torch.cat([old[:, :, :start], new], 2) for old, new in ((old_k, k), (old_v, v)))
        x = close_layer(model, layer, x, q, k, v, end if layer == last else None)
        x = torch.where(at(mask, end)[:, None] if layer == last else mask, edit.change(layer, x), x)
    return x[:, 0] if last else at(x, end)
