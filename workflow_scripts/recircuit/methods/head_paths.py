"""Path patching from every head, to the final stream and to the values of other heads (sentiment, 3.5: items 3 and 4).

``Freeze.HEADS`` with live MLPs: (i) both runs are cached; (ii) the clean run goes again with the sender's z from the corrupted
one, every other head's z clean, MLPs recomputed; (iii) the clean run goes again and only the receivers take what they computed
in (ii). With all attention frozen, what the sender changes travels through MLPs alone, position by position: the second step is
a sum of changes at the sender's own positions, one for all receivers, and the final stream needs END alone. The third starts at
the lowest receiver above the sender.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from recircuit.core.model import Model, affine, mlp_input, project
from recircuit.methods.component_patching import Pair, Patched, cut, head_writes, joined, run_both
from recircuit.methods.direction_hooks import Past, PromptPairs, close_layer, groups, read, readout
from recircuit.methods.end_paths import (
    Run,
    columns,
    delta,
    enters_mlp,
    mlp_deltas,
    normed,
    plain_run,
    through_mlps,
)
from recircuit.runs.budget import in_chunks
from recircuit.runs.forward import Cache

Head = tuple[int, int]  # layer, head


# ---- to the final stream --------------------------------------------------------------------------------------------


@torch.inference_mode()
def final_paths(model: Model, pairs: PromptPairs, chunk: int) -> Patched:
    """Return the logit differences when a head's corrupted z at END reaches the final stream, directly and through MLPs.

    At any other position it reaches it not at all. ``patched`` has one entry, ``final`` [L H n].
    """
    return joined(in_chunks(lambda rows: _final_chunk(model, pairs.rows(rows)), len(pairs), chunk))


def _final_chunk(model: Model, part: PromptPairs) -> Patched:
    good, bad = (plain_run(model, tokens, {"end": part.end}).at["end"] for tokens in (part.clean, part.corrupted))
    vectors, layers, found = readout(model, part.answers), range(model.spec.n_layers), []
    for layer in layers:
        change = torch.stack([delta(model, good, bad, layer, head) for head in range(model.spec.n_heads)])  # [H n d]
        later = [other for other in layers if enters_mlp(model, layer, other)]
        found.append(read(model, through_mlps(model, good, later, dict.fromkeys(later, change), change), vectors))
    return Patched(*(read(model, run.final, vectors) for run in (good, bad)), {"final": torch.stack(found)})


# ---- to the values of heads -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wanted:
    """Receivers: heads whose values take part together, and from which positions senders are taken.

    ``positions`` holds positions, each patched alone, and None for all at once.
    """

    heads: Sequence[Head]
    positions: Collection[int | None] = (None,)


@torch.inference_mode()
def value_paths(
    model: Model, pairs: PromptPairs, receivers: Mapping[str, Wanted], chunk: int
) -> dict[tuple[str, int | None], Float[Tensor, "L H n"]]:
    """Return the logit differences of every sender, by receivers and the sender's position.

    Senders that no receiver can hear, and positions at which both prompts are alike, leave the clean run's.
    """
    work = partial(_values_chunk, model, pairs, receivers, chunk)
    parts = [part for _, part in in_chunks(work, len(pairs), chunk)]
    return {key: torch.cat([part[key] for part in parts], -1) for key in parts[0]}


def _values_chunk(model: Model, pairs: PromptPairs, receivers: Mapping[str, Wanted], chunk: int, rows: slice) -> dict:
    both, spec = run_both(model, pairs.rows(rows)), model.spec
    clean, n = both.differences(model)[0], len(both.vectors)
    found = {
        (name, position): clean.repeat(spec.n_layers, spec.n_heads, 1)
        for name, wanted in receivers.items()
        for position in wanted.positions
    }
    above = {layer for wanted in receivers.values() for layer, _ in wanted.heads}
    past = Past.of(model, both.clean.x, both.stop, range(spec.n_layers))
    for layer in range(max(above, default=0)):
        for heads in groups(torch.arange(spec.n_heads, device=clean.device), max(1, chunk // n)):
            streams = _disturbed(model, both, layer, heads, above)
            for name, wanted in receivers.items():
                values = _received(model, both.clean, both.start, streams, wanted.heads)
                for position in wanted.positions:
                    if values and _within(both, position):
                        found[name, position][layer, heads] = _from(model, both, past, values, position)
    return found


def _within(both: Pair, position: int | None) -> bool:
    return position is None or both.start <= position < both.stop


def _disturbed(model: Model, both: Pair, layer: int, heads: Tensor, above: Collection[int]) -> dict[int, Tensor]:
    """Return the streams [m n S d] entering some layers when one of m heads of a layer alone writes as in the corrupted run."""
    where = slice(both.start, both.stop)
    z, other = (part.z[layer][:, where, heads].movedim(2, 0) for part in (both.clean, both.corrupted))  # [m n S e]
    write = head_writes(model, layer, other - z, heads)
    later = [number for number in range(max(above)) if enters_mlp(model, layer, number)]
    moved = mlp_deltas(model, _run(model, both.clean, where), later, dict.fromkeys(later, write))
    found, total = {}, write
    for number in range(layer, max(above)):
        total = total + moved.get(number, 0)
        if number + 1 in above:
            found[number + 1] = both.clean.x[number + 1][:, where] + total
    return found


def _run(model: Model, cache: Cache, where: slice) -> Run:
    """Return a run of some positions in the form in which changes of MLPs are taken."""
    cut_ = {name: tuple(part[:, where] for part in getattr(cache, name)) for name in ("x", "mid", "z", "mlp")}
    reads = tuple(mlp_input(model, x, mid) for x, mid in zip(cut_["x"][:-1], cut_["mid"], strict=True))
    return Run(cut_["x"], reads, cut_["z"], cut_["mlp"])


Values = dict[int, list[tuple[int, Tensor]]]  # by layer: heads and what their values become


def _received(model: Model, cache: Cache, start: int, streams: Mapping[int, Tensor], heads: Sequence[Head]) -> Values:
    """Return the values [m n S e] of the receivers that hear the senders, lowest layer first."""
    found: Values = {}
    for layer, head in sorted(heads):
        if layer in streams:
            weight, b = columns(model, layer, head, "v")
            found.setdefault(layer, []).append((head, affine(normed(model, layer, streams[layer]), weight, b)))
    return found


def _from(model: Model, both: Pair, past: Past, values: Values, position: int | None) -> Float[Tensor, "m n"]:
    """Return the logit differences of the clean run whose receivers take new values, at all positions or at one."""
    first, last, start = min(values), model.spec.n_layers - 1, both.start if position is None else position
    copies = len(values[first][0][1])
    before, end = cut(past, start), torch.full((copies * len(both.vectors),), both.stop - 1 - start, device=both.vectors.device)
    x = both.clean.x[first][:, start : both.stop].repeat(copies, 1, 1)
    for layer in range(first, last + 1):
        q, k, v = project(model, layer, x, start=start)
        for head, new in values.get(layer, ()):
            v = v.clone()
            v[:, head] = _taken(past, both, layer, head, new, position).flatten(0, 1)
        x = close_layer(model, layer, x, q, *before.before(layer, k, v), end if layer == last else None)
    return read(model, x[:, 0].unflatten(0, (copies, -1)), both.vectors)


def _taken(past: Past, both: Pair, layer: int, head: int, new: Tensor, position: int | None) -> Float[Tensor, "m n S e"]:
    """Return a receiver's values from the first patched position on: new at one of them alone, or at all."""
    if position is None:
        return new
    clean = past.layers[layer][1][:, head, position:]
    return torch.cat([new[:, :, position - both.start, None], clean[:, 1:].expand(len(new), -1, -1, -1)], 2)
