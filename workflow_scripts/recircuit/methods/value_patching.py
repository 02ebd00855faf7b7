"""Values of the heads at some positions taken from a corrupted run, while attention and other values are held (sentiment, 3.7).

What a position is read for goes through the heads' values there. With patterns frozen no head looks elsewhere, and with the
values of a second set of positions held at those of the clean run nothing goes by way of these.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from recircuit.core.model import Model, at, attend, embed, mlp, mlp_input, project
from recircuit.methods.component_patching import Pair, finished, head_writes, run_both
from recircuit.methods.direction_hooks import Past, PromptPairs, close_layer, groups, read, readout
from recircuit.runs.budget import in_chunks
from recircuit.runs.forward import layer_step


class ValuePatch(NamedTuple):
    """Values of all heads at ``positions`` become those of the corrupted run, in some ``layers`` (None: in all of them).

    ``held``: positions whose values are those of the clean run, in every layer. ``frozen``: every head of every layer attends
    as in the clean run.
    """

    positions: Sequence[int]
    held: Sequence[int] = ()
    layers: range | None = None
    frozen: bool = True


class PatchedValues(NamedTuple):
    """Logit differences of the clean and of the corrupted run [n], by the clean one's answers, and of each patch [m n]."""

    clean: Tensor
    corrupted: Tensor
    patched: Tensor


@torch.inference_mode()
def value_patching(model: Model, pairs: PromptPairs, patches: Sequence[ValuePatch], chunk: int) -> PatchedValues:
    """Run the clean prompts once for each patch. Raises ValueError where a position is to be patched and held at once."""
    for patch in patches:
        if both := sorted({*patch.positions} & {*patch.held}):
            raise ValueError(f"the values at position {both[0]} cannot be those of both runs")
    parts = [part for _, part in in_chunks(lambda rows: _patched(model, pairs.rows(rows), patches), len(pairs), chunk)]
    return PatchedValues(*(torch.cat(column, -1) for column in zip(*parts, strict=True)))


def _patched(model: Model, pairs: PromptPairs, patches: Sequence[ValuePatch]) -> PatchedValues:
    """Run all three kinds of run side by side, layer by layer, so that nothing is kept of a layer that is done."""
    clean, corrupted = embed(model, pairs.clean), embed(model, pairs.corrupted)
    x = [clean] * len(patches)
    for layer in range(model.spec.n_layers):
        q, k, v = project(model, layer, clean)
        other = project(model, layer, corrupted)[2]
        end = pairs.end if layer == model.spec.n_layers - 1 else None
        for i, patch in enumerate(patches):
            own = project(model, layer, x[i])
            seen = (q, k) if patch.frozen else own[:2]
            x[i] = close_layer(model, layer, x[i], *seen, _values(patch, layer, own[2], v, other), end)
        clean, corrupted = layer_step(model, layer, clean)[0], layer_step(model, layer, corrupted)[0]
    vectors, empty = readout(model, pairs.answers), clean.new_zeros(0, len(pairs))
    patched = torch.stack([read(model, final[:, 0], vectors) for final in x]) if patches else empty
    return PatchedValues(*(read(model, at(final, pairs.end), vectors) for final in (clean, corrupted)), patched)


def _values(patch: ValuePatch, layer: int, own: Tensor, clean: Tensor, corrupted: Tensor) -> Float[Tensor, "n H T e"]:
    values = own.clone()
    if patch.layers is None or layer in patch.layers:
        values[:, :, list(patch.positions)] = corrupted[:, :, list(patch.positions)]
    values[:, :, list(patch.held)] = clean[:, :, list(patch.held)]
    return values


# ---- one head at a time ---------------------------------------------------------------------------------------------

Kind = Literal["reads", "writes"]


@torch.inference_mode()
def position_paths(
    model: Model, pairs: PromptPairs, positions: Sequence[int], kind: Kind, chunk: int
) -> Float[Tensor, "L H n"]:
    """Return the logit differences of clean runs in which one head after the other is given a part of the corrupted run.

    ``reads``: its values at some positions. Where the tokens there are the same in both runs these are what the head's values
    become when all that heads write at the positions is patched, so that this is path patching from there to its values.
    ``writes``: its output at the positions. All that comes after is computed anew.
    """

    def run(rows: slice) -> Tensor:
        return torch.stack(list(_paths(model, run_both(model, pairs.rows(rows)), list(positions), kind, chunk)))

    return torch.cat([part for _, part in in_chunks(run, len(pairs), chunk)], -1)


def _paths(model: Model, both: Pair, positions: list[int], kind: Kind, chunk: int) -> Iterator[Float[Tensor, "H n"]]:
    """Yield the logit differences for the heads of each layer, as many of them in a batch as ``chunk`` prompts allow."""
    every, size = torch.arange(model.spec.n_heads, device=both.vectors.device), max(1, chunk // len(both.vectors))
    past, where = Past.of(model, both.clean.x, both.start, range(1, model.spec.n_layers)), slice(both.start, both.stop)
    for layer in range(model.spec.n_layers):
        x, other = both.clean.x[layer], both.corrupted.x[layer]
        change = torch.zeros_like(both.clean.z[layer])  # [n T H e]
        if kind == "reads":
            q, k, v = project(model, layer, x)
            v[:, :, positions] = project(model, layer, other)[2][:, :, positions]
            change = attend(q, k, v) - both.clean.z[layer]
        else:
            change[:, positions] = (both.corrupted.z[layer] - both.clean.z[layer])[:, positions]
        change, found = change[:, where].movedim(2, 0), []
        for heads in groups(every, size):
            mid = both.clean.mid[layer][:, where] + head_writes(model, layer, change[heads], heads)
            left = mid + mlp(model, layer, mlp_input(model, x[:, where], mid))
            found.append(finished(model, left, layer + 1, past, both.vectors))
        yield torch.cat(found)
