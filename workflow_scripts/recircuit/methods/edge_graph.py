"""Circuits of edges evaluated as a whole: what a graph does when all its missing edges carry the corrupted run at once.

In a graph every receiver (q, k, v of each live head, each MLP, the logits) reads the sum of what the senders write: over edges
of the graph what they write in this very run, over removed edges what they write in the corrupted run of the base. With no
edge removed this is the base on clean prompts; with all removed, the embedding's included, the base on corrupted ones. Path
patching never evaluates its kept edges together (sequence continuation, section 7); this does.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from recircuit.core.model import at, attend, embed, layer_norm, mlp, mlp_input, rotate, unembed
from recircuit.core.nodes import Circuit, Edge, Node
from recircuit.methods.ablation import Prompts
from recircuit.methods.edge_base import (
    INPUTS,
    LOGITS,
    Base,
    Run,
    end_of,
    heads_write,
    normed,
    one_head,
    precedes,
    run_base,
    run_chunk,
    seen,
    senders,
    write_of,
)
from recircuit.runs.budget import BLOCK, in_chunks

CPU_CHUNK = 2 * BLOCK

Graph = Collection[Edge]  # the edges that are removed


@dataclass(frozen=True)
class Plan:
    """A base with its live heads' weights one by one: per layer ``weight`` [3 h d e] and ``bias`` [3 h 1 e] or None."""

    base: Base
    nodes: list[Node]
    weight: tuple[Tensor, ...]
    bias: tuple[Tensor | None, ...]


@dataclass(frozen=True)
class Masks:
    """1 where an edge is removed: per layer ``heads`` [3 h S] and ``mlps`` [S], and ``logits`` [S], of all S senders."""

    heads: tuple[Tensor, ...]
    mlps: tuple[Tensor, ...]
    logits: Tensor
    first: int  # the lowest layer with a receiver that loses an edge; one above the last for the logits


class Inner(NamedTuple):
    """The heads of one layer of a graph's run: q, k, v [n h T e], ``z`` [n T h e], ``mid`` [n T d], their changes [h n T d]."""

    qkv: list[Tensor]
    z: Tensor
    mid: Tensor
    heads: Tensor


@dataclass(frozen=True)
class State:
    """A graph's run so far: the stream entering each layer and, sender by sender, the corrupted run's writing less this one's.

    ``changes`` holds [s n T d] for the embedding, then for the heads and the MLP of each layer in turn. From the top layer on
    only ``end`` matters: the stream after it is [n d], and changes have T = 1.
    """

    x: list[Tensor]
    changes: list[Tensor]
    inner: list[Inner]

    def until(self, layer: int) -> "State":
        """Return the run up to the input of a layer."""
        return State(self.x[: layer + 1], self.changes[: 2 * layer + 1], self.inner[:layer])

    def then(self, x: Tensor, inner: Inner, out: Tensor) -> "State":
        """Return the run with one layer more."""
        return State([*self.x, x], [*self.changes, inner.heads, out], [*self.inner, inner])


def plan_of(base: Base, circuit: Circuit) -> Plan:
    """Prepare a circuit's base for graphs of its edges."""
    e, weights, biases = base.model.spec.d_head, [], []
    for w in base.heads:
        weights.append(torch.stack([part.unflatten(1, (part.shape[1] // e, e)).transpose(0, 1) for part in (w.q, w.k, w.v)]))
        parts = (w.q_bias, w.k_bias, w.v_bias)
        # Families have all three biases or some of them: a missing one is zero.
        some = next((part for part in parts if part is not None), None)
        filled = [torch.zeros_like(some) if part is None else part for part in parts] if some is not None else None
        biases.append(None if filled is None else torch.stack([part.unflatten(0, (len(part) // e, 1, e)) for part in filled]))
    return Plan(base, senders(circuit), tuple(weights), tuple(biases))


def masks_of(plan: Plan, removed: Graph) -> Masks:
    """Number the removed edges; ValueError when one does not run among the base's nodes."""
    base, index = plan.base, {node: i for i, node in enumerate(plan.nodes)}
    layers, size = range(base.last + 1), len(plan.nodes)
    heads = [torch.zeros(3, len(base.live.heads[layer]), size) for layer in layers]
    mlps, logits = [torch.zeros(size) for _ in layers], torch.zeros(size)
    for edge in removed:
        receiver = edge.dst
        live = receiver == LOGITS or Node(receiver.kind, receiver.layer, receiver.head) in index
        if edge.src not in index or not live or not precedes(edge.src, receiver, parallel=base.model.spec.parallel):
            raise ValueError(f"{edge} is no edge of this circuit")
        if receiver == LOGITS:
            row = logits
        elif receiver.kind == "mlp":
            row = mlps[receiver.layer]
        else:
            row = heads[receiver.layer][INPUTS.index(receiver.input), base.live.heads[receiver.layer].index(receiver.head)]
        row[index[edge.src]] = 1

    def moved(masks: list[Tensor]) -> tuple[Tensor, ...]:
        return tuple(mask.to(base.model.device, base.model.dtype) for mask in masks)

    first = min((base.last + 1 if edge.dst == LOGITS else edge.dst.layer for edge in removed), default=base.last + 1)
    return Masks(moved(heads), moved(mlps), *moved([logits]), first)


# ---- evaluation -----------------------------------------------------------------------------------------------------


def _chunk(base: Base, chunk: int) -> int:
    # Every receiver has a stream of its own here: on a CPU a few prompts at a time stay in its caches.
    return run_chunk(chunk) if base.model.device.type == "cuda" else min(CPU_CHUNK, run_chunk(chunk))


def graph_logits(
    base: Base, circuit: Circuit, prompts: Prompts, corrupted: Tensor, graphs: Sequence[Graph], chunk: int
) -> Float[Tensor, "G N 2"]:
    """Return the answers' logits of a circuit for each set of removed edges in ``graphs``."""
    plan = plan_of(base, circuit)
    nothing, masks = masks_of(plan, []), [masks_of(plan, removed) for removed in graphs]

    @torch.inference_mode()
    def run(rows: slice) -> Tensor:
        at_rows, start, other = _begin(plan, prompts, corrupted, rows)
        whole, state = _logits(at_rows, start, nothing, other)
        # No run differs from that of all edges before the first receiver that loses one.
        found = [_logits(at_rows, state.until(mask.first), mask, other)[0] for mask in masks]
        return torch.stack(found) if found else whole.new_zeros(0, *whole.shape)

    return torch.cat([part for _, part in in_chunks(run, len(prompts), _chunk(base, chunk))], 1)


def without_each(
    base: Base, circuit: Circuit, prompts: Prompts, corrupted: Tensor, removed: Graph, edges: Sequence[Edge], chunk: int
) -> tuple[Float[Tensor, "N 2"], Float[Tensor, "E N 2"]]:
    """Return the logits of a graph, and of it with each of ``edges`` removed too, restarted at the edge's receiver."""
    plan = plan_of(base, circuit)
    first, masks = masks_of(plan, removed), [masks_of(plan, {*removed, edge}) for edge in edges]

    @torch.inference_mode()
    def run(rows: slice) -> tuple[Tensor, Tensor]:
        at_rows, start, other = _begin(plan, prompts, corrupted, rows)
        logits, state = _logits(at_rows, start, first, other)
        changed = [_without(at_rows, state, edge.dst, mask, other) for edge, mask in zip(edges, masks, strict=True)]
        return logits, torch.stack(changed) if changed else logits.new_zeros(0, *logits.shape)

    parts = [part for _, part in in_chunks(run, len(prompts), _chunk(base, chunk))]
    plain, changed = zip(*parts, strict=True)
    return torch.cat(plain), torch.cat(changed, 1)


def _without(plan: Plan, state: State, receiver: Node, masks: Masks, other: Run) -> Tensor:
    """Return the logits of a graph in which one receiver alone reads otherwise than in the run of ``state``."""
    base, layer = plan.base, receiver.layer
    if receiver == LOGITS:
        return _logits(plan, state, masks, other)[0]
    before, inner = state.until(layer), state.inner[layer]
    if receiver.kind == "attn":
        which, index = INPUTS.index(receiver.input), base.live.heads[layer].index(receiver.head)
        mask = masks.heads[layer][which, index][None]
        h = normed(base, layer, _reads(before.x[layer], before.changes, mask)[0])
        end = other.end if layer == base.top else None
        z = one_head(base, layer, index, receiver.input, h, inner.qkv, end)
        write = write_of(base, layer, index, z - inner.z[:, :, index])
        heads = inner.heads.clone()
        heads[index] -= write
        inner = inner._replace(mid=inner.mid + write, heads=heads)
    x, out = _after_heads(plan, layer, before, inner, masks, other)
    return _logits(plan, before.then(x, inner, out), masks, other)[0]


def _begin(plan: Plan, prompts: Prompts, corrupted: Tensor, rows: slice) -> tuple[Plan, State, Run]:
    """Return the plan for some prompts, the state before the first layer, and the corrupted run."""
    plan = replace(plan, base=plan.base.rows(rows))
    other = run_base(plan.base, corrupted[rows], prompts.end[rows], prompts.answers[rows])
    x = embed(plan.base.model, prompts.tokens[rows])
    return plan, State([x], [(other.x[0] - x)[None]], []), other


def _logits(plan: Plan, state: State, masks: Masks, other: Run) -> tuple[Tensor, State]:
    """Run a graph from the layer that ``state`` stands before; return the answers' logits [n 2] and the whole state."""
    base = plan.base
    for layer in range(len(state.inner), base.last + 1):
        inner = (_heads if layer < base.top else _heads_end)(plan, layer, state, masks, other)
        x, out = _after_heads(plan, layer, state, inner, masks, other)
        state = state.then(x, inner, out)
    x_end = state.x[-1] if state.x[-1].dim() == 2 else at(state.x[-1], other.end)
    reads = _reads(x_end[:, None], _end_changes(state.changes, other.end), masks.logits[None])[0, :, 0]
    return unembed(base.model, reads, other.answers), state


def _heads(plan: Plan, layer: int, state: State, masks: Masks, other: Run) -> Inner:
    """Run the heads of a layer below the top one."""
    base, x = plan.base, state.x[layer]
    qkv = _projected(plan, layer, x, state.changes, masks.heads[layer])
    z = attend(*qkv)
    return Inner(qkv, z, x + heads_write(base, layer, z), _head_writes(base, layer, other.z[layer] - z))


def _heads_end(plan: Plan, layer: int, state: State, masks: Masks, other: Run) -> Inner:
    """Run the heads of the top layer, or a layer above it, which has none."""
    base, end, x = plan.base, other.end, state.x[layer]
    x_end = _at_end(x, end)
    mid = x_end + end_of(base.constants[layer], end)[:, None]
    if layer > base.top:
        return Inner([], x_end[:, :, None, :0], mid, x_end[None][:0])
    q, _, _ = _projected(plan, layer, x_end, _end_changes(state.changes, end), masks.heads[layer], ("q",), end[:, None])
    _, k, v = _projected(plan, layer, x, state.changes, masks.heads[layer], ("k", "v"))
    z = attend(q, k, v, seen(k, end))
    heads = _head_writes(base, layer, at(other.z[layer], end)[:, None] - z)
    return Inner([q, k, v], z, mid + z.flatten(2) @ base.heads[layer].out, heads)


def _after_heads(plan: Plan, layer: int, state: State, inner: Inner, masks: Masks, other: Run) -> tuple[Tensor, Tensor]:
    """Return the next layer's input and the change of the MLP ([1 n T d], or nothing where it is ablated)."""
    base, at_end = plan.base, layer >= plan.base.top
    mid, x, changes = inner.mid, state.x[layer], state.changes
    if at_end:
        x, changes = _at_end(x, other.end), _end_changes(changes, other.end)
    if layer in base.live.mlps:
        seen_too = [] if base.model.spec.parallel else [inner.heads]
        reads = _reads(mlp_input(base.model, x, mid), [*changes, *seen_too], masks.mlps[layer][None])[0]
        out = mlp(base.model, layer, reads)
        change = ((_at_end(other.out[layer], other.end) if at_end else other.out[layer]) - out)[None]
    else:
        out = end_of(base.mlps[layer], other.end)[:, None] if at_end else base.mlps[layer]
        change = inner.heads[:0]
    following = mid + out
    return following[:, 0] if at_end else following, change


def _at_end(x: Tensor, end: Tensor) -> Float[Tensor, "n 1 d"]:
    return (at(x, end) if x.dim() == 3 else x)[:, None]


def _end_changes(changes: list[Tensor], end: Tensor) -> list[Tensor]:
    """Return the changes at ``end``, [s n 1 d]; those from the top layer on are there already."""
    rows = torch.arange(len(end), device=end.device)
    return [change if change.shape[2] == 1 else change[:, rows, end][:, :, None] for change in changes]


def _reads(x: Float[Tensor, "n T d"], changes: list[Tensor], mask: Float[Tensor, "r S"]) -> Float[Tensor, "r n T d"]:
    """Return what each receiver reads: the stream, and the changes over its removed edges."""
    reads, start = x.expand(len(mask), *x.shape).flatten(1).clone(), 0
    for change in changes:
        if len(change):
            reads.addmm_(mask[:, start : start + len(change)], change.flatten(1))
        start += len(change)
    return reads.view(len(mask), *x.shape)


def _projected(
    plan: Plan, layer: int, x: Tensor, changes: list[Tensor], mask: Tensor, which: Sequence[str] = INPUTS, positions=None
) -> list[Tensor]:
    """Return q, k, v [n h T e] of a layer, each computed from what it reads; None for those not asked for."""
    model, found = plan.base.model, [None, None, None]
    chosen = [INPUTS.index(name) for name in which]
    mask, w = mask[chosen], plan.weight[layer][chosen]
    n, length, count = len(x), x.shape[1], w.shape[1]
    h = layer_norm(model.blocks[layer].norm1, _reads(x, changes, mask.flatten(0, 1)), model.spec.eps)
    out = torch.bmm(h.flatten(1, 2), w.flatten(0, 1)).view(len(chosen), count, n, length, model.spec.d_head)
    if plan.bias[layer] is not None:
        out = out + plan.bias[layer][chosen][:, :, None]
    positions = torch.arange(length, device=x.device)[None] if positions is None else positions
    for i, part in zip(chosen, out.transpose(1, 2), strict=True):
        found[i] = part if i == 2 else rotate(model.spec, part, positions)
    return found


def _head_writes(base: Base, layer: int, z: Float[Tensor, "n T h e"]) -> Float[Tensor, "h n T d"]:
    """Return what each head writes, given its z."""
    n, length, count, e = z.shape
    d = base.model.spec.d_model
    w = base.heads[layer].out.view(count, e, d)
    return torch.bmm(z.permute(2, 0, 1, 3).reshape(count, n * length, e), w).view(count, n, length, d)
