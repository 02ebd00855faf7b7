"""Path patching of single edges of a circuit (sequence continuation, section 3, E6), each edge tested alone.

Three steps: run the circuit on clean and on corrupted prompts; run it on the clean ones with the sender's output from the
corrupted run, and keep what the receiver computes (q, k or v of a head, an MLP's output, the final stream); run it on the clean
ones with that alone put in. The second step does not depend on the receiver, so it is done once per sender, and the third
restarts at the receiver's layer. What the second step holds at its clean value (``Freeze``) is a convention:

==================  ===========================================  ==============================================
edge                published                                    fixed
==================  ===========================================  ==============================================
head -> head        HEADS                                        HEADS
head -> MLP         HEADS; only senders of layers below          HEADS; heads of the MLP's own layer too
MLP -> MLP          NOTHING                                      HEADS
MLP -> head         NOTHING; replaced is the attention output    HEADS, the MLP's output is replaced
                    of the MLP's layer, not the MLP's output
head -> logits      HEADS                                        ALL
MLP -> logits       NOTHING; replaced are both attention output  ALL
                    and MLP output, of this MLP's layer and of
                    those of all MLPs of the circuit before it
==================  ===========================================  ==============================================

The published column is what the authors' code does; heads outside the circuit stay at their mean in every run, so "the
attention output" is that of the circuit's heads. In parallel models an MLP reads what the heads read, and no head of its layer.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from recircuit.core.model import at, unembed
from recircuit.core.nodes import Circuit, Edge, Freeze, Node
from recircuit.core.nodes import mlp as mlp_node
from recircuit.methods.ablation import Prompts
from recircuit.methods.edge_base import (
    INPUTS,
    LOGITS,
    Base,
    Run,
    end_of,
    head_reads,
    heads_out,
    heads_write,
    heads_write_end,
    layer_of,
    layer_receivers,
    mlp_write,
    mlp_write_end,
    mlp_writes,
    normed,
    precedes,
    run_chunk,
    run_pair,
    senders,
    written,
)
from recircuit.runs.budget import in_chunks

Variant = Literal["published", "fixed"]


@dataclass(frozen=True)
class Patched:
    """Answers' logits [E N 2] of a circuit with one edge patched, for each of ``edges``."""

    edges: list[Edge]
    logits: Tensor


def candidate_edges(circuit: Circuit, variant: Variant, *, parallel: bool = False) -> list[Edge]:
    """Return the edges that are tested, sender by sender; the embedding is no sender.

    ``published`` leaves out edges from heads to the MLP of their own layer.
    """
    nodes, found = senders(circuit)[1:], []
    for sender in nodes:
        for receiver in nodes:
            same_layer = sender.layer == receiver.layer
            if not precedes(sender, receiver, parallel=parallel) or (variant == "published" and same_layer):
                continue
            inputs = INPUTS if receiver.kind == "attn" else (None,)
            found += [Edge(sender, replace(receiver, input=which)) for which in inputs]
        found.append(Edge(sender, LOGITS))
    return found


def patch_edges(base: Base, circuit: Circuit, prompts: Prompts, corrupted: Tensor, variant: Variant, chunk: int) -> Patched:
    """Patch every tested edge of a circuit, one at a time.

    ``base`` is the base of the circuit, ``corrupted`` [N T] the tokens of each prompt's corrupted twin.
    """
    edges = candidate_edges(circuit, variant, parallel=base.model.spec.parallel)
    if not edges:
        return Patched([], torch.zeros(0, len(prompts), 2, dtype=base.model.dtype, device=base.model.device))
    work = partial(_patch_chunk, base, prompts, corrupted, variant, edges)
    return Patched(edges, torch.cat([part for _, part in in_chunks(work, len(prompts), run_chunk(chunk))], 1))


@torch.inference_mode()
def _patch_chunk(base: Base, prompts: Prompts, corrupted: Tensor, variant: Variant, edges: list[Edge], rows: slice) -> Tensor:
    base = base.rows(rows)
    clean, other = run_pair(base, prompts, corrupted, rows)
    found: dict[Edge, Tensor] = {}
    for sender in dict.fromkeys(edge.src for edge in edges):
        wanted = {edge.dst for edge in edges if edge.src == sender}
        for receiver, logits in PATCH[variant, sender.kind](base, clean, other, sender, wanted):
            found[Edge(sender, receiver)] = logits
    return torch.stack([found[edge] for edge in edges])


# ---- the second step: the sender's output is replaced ----------------------------------------------------------------


class Step(NamedTuple):
    """One layer of the disturbed run: the stream entering it, and what its MLP writes; both at ``end`` where that is enough.

    ``x`` [n T d] is None where no head can read it: in a sender's own layer and above the top layer; after the last layer it is
    the final stream [n d]. ``out`` is [n T d], from the top layer on [n d].
    """

    layer: int
    x: Tensor | None
    out: Tensor | None


def disturbed(base: Base, clean: Run, sender: Node, change: Tensor, freeze: Freeze) -> Iterator[Step]:
    """Yield the layers that see the sender write ``change`` more than it does; last, the final stream."""
    layer = sender.layer
    if sender.kind == "mlp":
        x = clean.x[layer + 1] + change
    elif layer < base.top:
        mid = clean.mid[layer] + change
        out = mlp_write(base, layer, clean.x[layer], mid)
        yield Step(layer, None, out)
        x = mid + out
    else:
        mid = at(clean.mid[layer] + change, clean.end)
        out = mlp_write_end(base, layer, at(clean.x[layer], clean.end), mid, clean.end)
        yield Step(layer, None, out)
        x = mid + out
    yield from onward(base, clean, layer + 1, x, freeze)


def onward(base: Base, clean: Run, layer: int, x: Tensor, freeze: Freeze) -> Iterator[Step]:
    """Yield the layers from ``layer`` on, entered with ``x``; attention is frozen or recomputed, MLPs are recomputed."""
    for later in range(layer, base.top):
        mid = x + _attention(base, clean, later, x, freeze)
        out = mlp_write(base, later, x, mid)
        yield Step(later, x, out)
        x = mid + out
    entering = x if layer <= base.top else None
    x = at(x, clean.end) if x.dim() == 3 else x
    for later in range(max(layer, base.top), base.last + 1):
        mid = x + _attention_end(base, clean, later, entering, freeze)
        out = mlp_write_end(base, later, x, mid, clean.end)
        yield Step(later, entering, out)
        entering, x = None, mid + out
    yield Step(base.last + 1, x, None)


def _attention(base: Base, clean: Run, layer: int, x: Tensor, freeze: Freeze) -> Float[Tensor, "n T d"]:
    if freeze is Freeze.HEADS:
        return clean.mid[layer] - clean.x[layer]
    return heads_write(base, layer, heads_out(base, layer, x))


def _attention_end(base: Base, clean: Run, layer: int, x: Tensor | None, freeze: Freeze) -> Float[Tensor, "n d"]:
    """Return what attention writes at ``end``: above the top layer, where ``x`` is None, a constant."""
    if x is None:
        return end_of(base.constants[layer], clean.end)
    if freeze is Freeze.HEADS:
        return at(clean.mid[layer] - clean.x[layer], clean.end)
    return heads_write_end(base, layer, heads_out(base, layer, x, clean.end)[:, 0], clean.end)


# ---- the third step: one receiver takes what it computed in the second -----------------------------------------------


def received(base: Base, clean: Run, steps: Iterator[Step], wanted: set[Node]) -> Iterator[tuple[Node, Tensor]]:
    """Yield each wanted receiver with the answers' logits [n 2] of the clean run in which it alone takes its new value."""
    for step in steps:
        if step.layer > base.last:
            if LOGITS in wanted:
                yield LOGITS, unembed(base.model, step.x, clean.answers)
            continue
        if step.out is not None and mlp_node(step.layer) in wanted:
            yield mlp_node(step.layer), mlp_writes(base, clean, step.layer, step.out)
        h = None
        for receiver, index in layer_receivers(base, step.layer):
            if receiver in wanted and step.x is not None:
                h = normed(base, step.layer, step.x) if h is None else h
                yield receiver, head_reads(base, clean, step.layer, index, receiver.input, h)


def _head_published(base: Base, clean: Run, other: Run, sender: Node, wanted: set[Node]) -> Iterator[tuple[Node, Tensor]]:
    yield from received(base, clean, disturbed(base, clean, sender, written(base, clean, other, sender), Freeze.HEADS), wanted)


def _mlp_published(base: Base, clean: Run, other: Run, sender: Node, wanted: set[Node]) -> Iterator[tuple[Node, Tensor]]:
    mlps, heads = ({node for node in wanted if node.kind == kind} for kind in ("mlp", "attn"))
    change = written(base, clean, other, sender)
    yield from received(base, clean, disturbed(base, clean, sender, change, Freeze.NOTHING), mlps)
    yield from received(
        base,
        clean,
        onward(base, clean, sender.layer + 1, _other_heads(base, clean, other, sender.layer), Freeze.NOTHING),
        heads,
    )
    yield LOGITS, _mlps_so_far(base, clean, other, sender.layer)


def _other_heads(base: Base, clean: Run, other: Run, layer: int) -> Tensor:
    """Return the stream after a layer whose heads all write what they write in the other run."""
    mid = clean.x[layer] + heads_write(base, layer, other.z[layer])
    return mid + mlp_write(base, layer, clean.x[layer], mid)


def _mlps_so_far(base: Base, clean: Run, other: Run, layer: int) -> Float[Tensor, "n 2"]:
    """Return logits with heads and MLP from the other run in the layers of the circuit's MLPs, up to ``layer``."""
    first = min(base.live.mlps)
    x = clean.x[first]
    for later in range(first, base.last + 1):
        if later in base.live.mlps and later <= layer:
            x = x + heads_write(base, later, other.z[later]) + other.out[later]
        else:
            x = layer_of(base, later, x)
    return unembed(base.model, at(x, clean.end), clean.answers)


def _fixed(base: Base, clean: Run, other: Run, sender: Node, wanted: set[Node]) -> Iterator[tuple[Node, Tensor]]:
    change = written(base, clean, other, sender)
    yield from received(base, clean, disturbed(base, clean, sender, change, Freeze.HEADS), wanted - {LOGITS})
    yield LOGITS, unembed(base.model, at(clean.x[-1] + change, clean.end), clean.answers)


PATCH = {
    ("published", "attn"): _head_published,
    ("published", "mlp"): _mlp_published,
    ("fixed", "attn"): _fixed,
    ("fixed", "mlp"): _fixed,
}
