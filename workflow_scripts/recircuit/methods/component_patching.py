"""Activation patching of every head and of every position: one clean component at a time in the corrupted run (sentiment, 3.5).

A head's z, q, k, v or pattern is patched at all positions, its z also at one alone; the stream entering a layer, or what its
attention or its MLP writes, at one. Only its own share of the stream changes, so that a patch is an addition to the cached
corrupted run: it starts behind the patched component and at the first position that changes (keys and values of those before
are the corrupted run's), many patches share a batch, and of the last layer only END is run, of the logits only the answers'.

The prompts have one length, and END is one position.
"""

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from recircuit.core.model import Model, mlp, mlp_input, project
from recircuit.methods.attention import pattern_of
from recircuit.methods.direction_hooks import Past, PromptPairs, groups, read, readout, run_on, span
from recircuit.runs.budget import in_chunks
from recircuit.runs.forward import Cache, run_with_cache

COMPONENTS = ("z", "q", "k", "v", "pattern")
SITES = ("resid_pre", "attn_out", "mlp_out")
HEAD_AT_POSITION = "z_position"  # the z of one head at one position


class Patched(NamedTuple):
    """Logit differences of clean and corrupted runs [n], and by component those of the patched ones.

    ``patched`` holds [L H n] for components of heads, [L T n] for positions, [L H T n] for heads at positions; L layers, of all
    or of some.
    """

    clean: Tensor
    corrupted: Tensor
    patched: dict[Hashable, Tensor]


class Pair(NamedTuple):
    """Both runs of some prompts: caches of all layers, the vectors of ``readout`` [n d] and the positions that can change.

    Those are ``start`` to END; ``stop`` is the one after it.
    """

    clean: Cache
    corrupted: Cache
    vectors: Tensor
    start: int
    stop: int

    def differences(self, model: Model) -> tuple[Tensor, Tensor]:
        """Return the logit differences [n] of both runs."""
        return tuple(read(model, run.x[-1][:, self.stop - 1], self.vectors) for run in (self.clean, self.corrupted))


def run_both(model: Model, pairs: PromptPairs) -> Pair:
    """Run clean and corrupted prompts. Raises ValueError when END is not one position."""
    if len(set(pairs.end.tolist())) != 1:
        raise ValueError("END is not at one position in all prompts; run those of one length at a time")
    caches = (run_with_cache(model, tokens) for tokens in (pairs.clean, pairs.corrupted))
    return Pair(*caches, readout(model, pairs.answers), *span(pairs))


Runner = Callable[[Model, PromptPairs], Pair]


@torch.inference_mode()
def patch_heads(
    model: Model,
    pairs: PromptPairs,
    chunk: int,
    components: Sequence[str] = COMPONENTS,
    run: Runner = run_both,
    layers: Sequence[int] | None = None,
) -> Patched:
    """Patch each component of each head of some layers (by default of all), at all positions.

    ``run`` may make the two runs otherwise than from the pairs' tokens.
    """
    layers = range(model.spec.n_layers) if layers is None else layers
    return joined(in_chunks(partial(_heads_chunk, model, pairs, components, layers, chunk, run), len(pairs), chunk))


@torch.inference_mode()
def patch_positions(
    model: Model,
    pairs: PromptPairs,
    chunk: int,
    sites: Sequence[str] = SITES,
    run: Runner = run_both,
    layers: Sequence[int] | None = None,
) -> Patched:
    """Patch the stream entering each layer, and what its attention and MLP write, at each position; the rest as above."""
    layers = range(model.spec.n_layers) if layers is None else layers
    work = partial(_positions_chunk, model, pairs, {(site, layer): 1 for site in sites for layer in layers}, run)
    done = joined(in_chunks(work, len(pairs), max(1, chunk // len(sites))))
    every = {site: torch.cat([done.patched[site, layer] for layer in layers]) for site in sites}
    return done._replace(patched=every)


@torch.inference_mode()
def patch_heads_at_positions(model: Model, pairs: PromptPairs, chunk: int, layers: Sequence[int] | None = None) -> Patched:
    """Patch the z of each head of some layers (by default of all) at each position alone."""
    layers = range(model.spec.n_layers) if layers is None else layers
    work = partial(
        _positions_chunk, model, pairs, {(HEAD_AT_POSITION, layer): model.spec.n_heads for layer in layers}, run_both
    )
    done = joined(in_chunks(work, len(pairs), max(1, chunk // model.spec.n_heads)))
    return done._replace(patched={HEAD_AT_POSITION: torch.stack([done.patched[HEAD_AT_POSITION, layer] for layer in layers])})


def joined(parts: Iterator[tuple[slice, Patched]]) -> Patched:
    """Put the prompts of several chunks together."""
    clean, corrupted, patched = zip(*(part for _, part in parts), strict=True)
    every = {name: torch.cat([part[name] for part in patched], -1) for name in patched[0]}
    return Patched(torch.cat(clean), torch.cat(corrupted), every)


# ---- heads ----------------------------------------------------------------------------------------------------------


def head_changes(
    model: Model, layer: int, clean: Float[Tensor, "n T d"], corrupted: Float[Tensor, "n T d"]
) -> dict[str, Float[Tensor, "n H T e"]]:
    """Return how much each head's z changes when one of its components is the clean run's; streams enter the layer."""
    (q, k, v), (other_q, other_k, other_v) = (project(model, layer, x) for x in (clean, corrupted))
    pattern, other = pattern_of(q, k).to(v), pattern_of(other_q, other_k).to(v)
    z = other @ other_v
    return {
        "z": pattern @ v - z,
        "q": pattern_of(q, other_k).to(v) @ other_v - z,
        "k": pattern_of(other_q, k).to(v) @ other_v - z,
        "v": other @ v - z,
        "pattern": pattern @ other_v - z,
    }


def head_writes(model: Model, layer: int, change: Float[Tensor, "m n S e"], heads: Tensor) -> Float[Tensor, "m n S d"]:
    """Return what m heads (their indices ``heads`` [m]) write for changes of their z."""
    out = model.blocks[layer].heads.out.unflatten(0, (model.spec.n_heads, -1))
    return (change.flatten(1, 2) @ out[heads]).unflatten(1, change.shape[1:3])


def _heads_chunk(
    model: Model,
    pairs: PromptPairs,
    components: Sequence[str],
    layers: Sequence[int],
    chunk: int,
    run: Runner,
    rows: slice,
) -> Patched:
    part = pairs.rows(rows)
    both, n, spec = run(model, part), len(part), model.spec
    past = Past.of(model, both.corrupted.x, both.start, range(1, spec.n_layers))
    found: dict[str, list[Tensor]] = {name: [] for name in components}
    for layer in layers:
        changes = head_changes(model, layer, both.clean.x[layer], both.corrupted.x[layer])
        stacked = torch.stack([changes[name] for name in components]).transpose(1, 2).flatten(0, 1)  # [C*H n T e]
        heads = torch.arange(spec.n_heads, device=stacked.device).repeat(len(components))
        done = [
            _with_heads(model, layer, both, past, stacked[some], heads[some])
            for some in groups(torch.arange(len(heads), device=heads.device), max(1, chunk // n))
        ]
        for name, values in zip(components, torch.cat(done).split(spec.n_heads), strict=True):
            found[name].append(values)
    return Patched(*both.differences(model), {name: torch.stack(values) for name, values in found.items()})


def _with_heads(model: Model, layer: int, both: Pair, past: Past, change: Tensor, heads: Tensor) -> Float[Tensor, "m n"]:
    """Return the logit differences when each of m heads of a layer writes the ``change`` [m n T e] of its z more."""
    last = layer == model.spec.n_layers - 1
    where = slice(both.stop - 1 if last else both.start, both.stop)  # only END is read of the last layer
    x, mid = (part[layer][:, where] for part in (both.corrupted.x, both.corrupted.mid))
    mid = mid + head_writes(model, layer, change[:, :, where], heads)
    x = mid + mlp(model, layer, mlp_input(model, x, mid))
    return finished(model, x, layer + 1, past, both.vectors)


def finished(model: Model, x: Float[Tensor, "m n S d"], layer: int, past: Past, vectors: Tensor) -> Float[Tensor, "m n"]:
    """Return the logit differences of m runs that go on from the stream entering a layer at the last S positions."""
    if layer == model.spec.n_layers:
        return read(model, x[:, :, -1], vectors)
    end = torch.full((x.shape[0] * x.shape[1],), x.shape[2] - 1, device=x.device)
    return read(model, run_on(model, x.flatten(0, 1), layer, past, end).unflatten(0, x.shape[:2]), vectors)


# ---- positions ------------------------------------------------------------------------------------------------------


def cut(past: Past, start: int) -> Past:
    """Return the keys and values of the first ``start`` positions of a longer past."""
    return Past(start, {layer: (k[:, :, :start], v[:, :, :start]) for layer, (k, v) in past.layers.items()})


Cell = tuple[str, int]  # a site and its layer


def _positions_chunk(model: Model, pairs: PromptPairs, cells: Mapping[Cell, int], run: Runner, rows: slice) -> Patched:
    """Patch cells at each position; ``cells`` says how many patches each is, and they are found as [k T n]."""
    both = run(model, pairs.rows(rows))
    clean, corrupted = both.differences(model)
    layers, length = model.spec.n_layers, pairs.clean.shape[1]
    # Where the prompts are alike, and behind END, a patch changes nothing.
    found = {cell: corrupted.repeat(k, length, 1) for cell, k in cells.items()}
    past = Past.of(model, both.corrupted.x, both.stop, range(layers))
    for position in range(both.start, both.stop):
        before = cut(past, position)
        # What the last layer writes is read at END alone.
        for layer in range(layers + (position == both.stop - 1)):
            entering = dict(_entering(model, both, layer, position, cells))
            if entering:
                rest = both.corrupted.x[layer][:, position + 1 : both.stop]
                first = torch.cat(list(entering.values()))[:, :, None]
                x = torch.cat([first, rest.expand(len(first), -1, -1, -1)], 2)
                done = finished(model, x, layer, before, both.vectors).split([len(part) for part in entering.values()])
                for cell, values in zip(entering, done, strict=True):
                    found[cell][:, position] = values
    return Patched(clean, corrupted, found)


def _entering(
    model: Model, both: Pair, layer: int, position: int, wanted: Collection[Cell]
) -> Iterator[tuple[Cell, Float[Tensor, "k n d"]]]:
    """Yield the wanted cells whose patch at a position first changes the stream entering a layer, and what it is there."""
    clean, corrupted, below = both.clean, both.corrupted, layer - 1
    if ("resid_pre", layer) in wanted:
        yield ("resid_pre", layer), clean.x[layer][None, :, position]
    if not layer:
        return
    x, mid = (part[below][None, :, position] for part in (corrupted.x, corrupted.mid))

    def behind(mid: Tensor) -> Tensor:
        return mid + mlp(model, below, mlp_input(model, x, mid))

    if ("attn_out", below) in wanted:
        yield ("attn_out", below), behind(x + (clean.mid[below] - clean.x[below])[:, position])
    if (HEAD_AT_POSITION, below) in wanted:
        change = (clean.z[below] - corrupted.z[below])[:, position].transpose(0, 1)[:, :, None]
        heads = torch.arange(len(change), device=change.device)
        yield (HEAD_AT_POSITION, below), behind(mid + head_writes(model, below, change, heads)[:, :, 0])
    if ("mlp_out", below) in wanted:
        yield ("mlp_out", below), mid + clean.mlp[below][:, position]
