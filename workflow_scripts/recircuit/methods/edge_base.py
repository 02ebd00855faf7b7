"""The model between whose nodes edges are tested: a circuit with everything else ablated, its runs, and how to rejoin them.

An edge goes from what a node writes into the residual stream to what another reads of it: a head's query, key or value input,
an MLP's input, or the logits. All tests of edges (path patching, attribution, edge graphs) rest on the same three things: a run
of the base that keeps what every live node read and wrote, a node that reads something else, and the rest of the forward pass
from there on, with no more than the position that is read from the top live heads on.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recircuit.core.model import (
    Heads,
    Model,
    affine,
    at,
    attend,
    embed,
    layer_norm,
    mlp,
    mlp_input,
    project,
    rotate,
    select_heads,
    unembed,
)
from recircuit.core.nodes import Circuit, Edge, Node, head
from recircuit.core.nodes import mlp as mlp_node
from recircuit.methods.ablation import Live, Prompts, Reference, ablated_mlp_means, ablated_write, pick_position
from recircuit.runs.budget import BLOCK

EMBED, LOGITS = Node("embed"), Node("logits")
INPUTS = ("q", "k", "v")


@dataclass(frozen=True)
class Base:
    """A circuit of a model: its live heads' weights, and per layer what its ablated heads and MLP write.

    ``constants`` [L][G T d]: the ablated heads of a layer together, and b_O. ``mlps`` [L][G T d]: values of ablated MLPs.
    ``group`` as in Reference.
    """

    model: Model
    live: Live
    heads: tuple[Heads, ...]
    constants: tuple[Tensor, ...]
    mlps: tuple[Tensor, ...]
    group: Tensor | None = None

    @property
    def last(self) -> int:
        """The last layer."""
        return self.model.spec.n_layers - 1

    @property
    def top(self) -> int:
        """The highest layer with a live head, -1 without any: what is above it reads, and matters, at ``end`` alone."""
        return max((layer for layer, heads in enumerate(self.live.heads) if heads), default=-1)

    def rows(self, rows: slice) -> "Base":
        """Return the base for some prompts."""
        if self.group is None:
            return self
        chosen = self.group[rows]
        picked = (tuple(value[chosen] if len(value) > 1 else value for value in part) for part in (self.constants, self.mlps))
        return replace(self, constants=next(picked), mlps=next(picked), group=torch.arange(len(chosen), device=chosen.device))


def base_of(model: Model, circuit: Circuit, reference: Reference | None, chunk: int, corrupted: Tensor | None = None) -> Base:
    """Return the base of a circuit: M(H, K) of sequence continuation, section 3 (E1).

    ``corrupted`` tokens as in ``circuit_logits``: ablated MLPs then take the published means. ``reference`` may be None for the
    whole model. ValueError when the circuit names a node that the model does not have.
    """
    live, spec = Live.of(model, circuit), model.spec
    if reference is None:
        assert len(circuit.nodes) == spec.n_layers * (spec.n_heads + 1), "an ablated node needs a reference"
        nothing = torch.zeros(1, 1, spec.d_model, dtype=model.dtype, device=model.device)
        constants = tuple(block.out_bias.expand(1, 1, -1) for block in model.blocks)
        return Base(model, live, _own_heads(model, live), constants, (nothing,) * spec.n_layers)
    if corrupted is not None:
        with torch.inference_mode():
            reference = reference.with_mlps(ablated_mlp_means(model, corrupted, live, reference, chunk))
    layers = range(spec.n_layers)
    constants = tuple(ablated_write(model, layer, reference.heads[layer], live.heads[layer]).clone() for layer in layers)
    return Base(model, live, _own_heads(model, live), constants, tuple(m.clone() for m in reference.mlps), reference.group)


def _own_heads(model: Model, live: Live) -> tuple[Heads, ...]:
    """Return the live heads' projections, each head with keys and values of its own even where heads share them."""
    spec, found = model.spec, []
    group = spec.n_heads // (spec.n_kv_heads or spec.n_heads)

    def spread(weight: Tensor | None) -> Tensor | None:
        if weight is None:
            return None
        return weight.unflatten(-1, (-1, spec.d_head)).repeat_interleave(group, -2).flatten(-2)

    for layer in range(spec.n_layers):
        w = select_heads(model, layer, live.heads[layer])
        if w is model.blocks[layer].heads and group > 1:
            w = w._replace(k=spread(w.k), v=spread(w.v), k_bias=spread(w.k_bias), v_bias=spread(w.v_bias))
        found.append(w)
    return tuple(found)


def run_chunk(chunk: int) -> int:
    """Return how many prompts to run at once where what all layers read and wrote is kept; a multiple of BLOCK."""
    return max(BLOCK, chunk // 2 // BLOCK * BLOCK)


# ---- nodes and edges ------------------------------------------------------------------------------------------------


def senders(circuit: Circuit) -> list[Node]:
    """Return what writes into the residual stream, in the order of a forward pass: embedding, then each layer's nodes."""
    return [EMBED, *sorted(circuit.nodes, key=lambda node: (node.layer, node.kind == "mlp", node.head))]


def receivers(circuit: Circuit) -> list[Node]:
    """Return what reads it, in the order of a forward pass: q, k and v of each head, MLPs, and the logits."""
    found = []
    for node in senders(circuit)[1:]:
        found += [node] if node.kind == "mlp" else [replace(node, input=which) for which in INPUTS]
    return [*found, LOGITS]


def precedes(sender: Node, receiver: Node, *, parallel: bool = False) -> bool:
    """Say whether a node writes before another reads: heads before the MLP of their layer, unless these are parallel."""
    if sender.kind == "embed" or receiver.kind == "logits":
        return True
    if receiver.kind == "mlp" and sender.kind == "attn" and not parallel:
        return sender.layer <= receiver.layer
    return sender.layer < receiver.layer


def all_edges(circuit: Circuit, *, parallel: bool = False) -> list[Edge]:
    """Return every edge among a circuit's nodes, the embedding and the logits, by receiver in the order of a forward pass."""
    sources = senders(circuit)
    return [Edge(s, r) for r in receivers(circuit) for s in sources if precedes(s, r, parallel=parallel)]


# ---- runs -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """What a run of the base left behind, per layer; h live heads, at all positions.

    ``x`` [n T d] (also after the last layer), ``qkv`` ([n h T e] each), ``z`` [n T h e], ``mid`` [n T d], ``out`` [n T d] (of
    an ablated MLP: its constant [g T d]). ``end`` [n] and ``answers`` [n 2] of the prompts.
    """

    x: tuple[Tensor, ...]
    qkv: tuple[tuple[Tensor, Tensor, Tensor], ...]
    z: tuple[Tensor, ...]
    mid: tuple[Tensor, ...]
    out: tuple[Tensor, ...]
    end: Tensor
    answers: Tensor


def run_base(base: Base, tokens: Int[Tensor, "n T"], end: Tensor, answers: Tensor) -> Run:
    """Run the base and keep what every live node read and wrote."""
    x, layers = embed(base.model, tokens), []
    for layer in range(base.last + 1):
        qkv = project_live(base, layer, x)
        z = attend(*qkv)
        mid = x + heads_write(base, layer, z)
        out = mlp_write(base, layer, x, mid)
        layers.append((x, qkv, z, mid, out))
        x = mid + out
    entered, *rest = zip(*layers, strict=True)
    return Run((*entered, x), *rest, end, answers)


def run_pair(base: Base, prompts: Prompts, corrupted: Tensor, rows: slice) -> tuple[Run, Run]:
    """Return the clean and the corrupted run of some prompts."""
    end, answers = prompts.end[rows], prompts.answers[rows]
    return run_base(base, prompts.tokens[rows], end, answers), run_base(base, corrupted[rows], end, answers)


def heads_write(base: Base, layer: int, z: Float[Tensor, "n T h e"]) -> Float[Tensor, "n T d"]:
    """Return what the heads of a layer write, the ablated ones and b_O included."""
    return z.flatten(2) @ base.heads[layer].out + base.constants[layer]


def mlp_write(base: Base, layer: int, x: Tensor, mid: Tensor) -> Tensor:
    """Return what the MLP writes: computed where it is live, else its constant."""
    return mlp(base.model, layer, mlp_input(base.model, x, mid)) if layer in base.live.mlps else base.mlps[layer]


def layer_of(base: Base, layer: int, x: Float[Tensor, "n T d"]) -> Float[Tensor, "n T d"]:
    """Run one layer of the base."""
    mid = x + heads_write(base, layer, heads_out(base, layer, x))
    return mid + mlp_write(base, layer, x, mid)


def project_live(base: Base, layer: int, x: Tensor, end: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values [n h T e] of a layer's live heads; only the query at ``end`` if it is given."""
    if base.live.heads[layer]:
        return project(base.model, layer, x, base.heads[layer], end=end)
    nothing = x[:, None, :, : base.model.spec.d_head][:, :0]  # cut from x, so that it has gradients where x has
    return nothing if end is None else nothing[:, :, :1], nothing, nothing


def heads_out(base: Base, layer: int, x: Tensor, end: Tensor | None = None) -> Float[Tensor, "n T h e"]:
    """Return z of a layer's live heads, at all positions or only at ``end`` (T = 1)."""
    q, k, v = project_live(base, layer, x, end)
    return attend(q, k, v, None if end is None else seen(k, end))


def seen(k: Float[Tensor, "n h T e"], end: Int[Tensor, " n"]) -> Tensor:
    """Return [n 1 T], the positions that the query at ``end`` may look at."""
    return (torch.arange(k.shape[2], device=k.device) <= end[:, None])[:, None]


def end_of(constant: Float[Tensor, "g T d"], end: Int[Tensor, " n"]) -> Float[Tensor, "m d"]:
    """Return a constant of the base at each prompt's ``end``; T may be 1, for one that is the same everywhere."""
    return pick_position(constant, end) if constant.shape[1] > 1 else constant[:, 0]


def heads_write_end(base: Base, layer: int, z: Float[Tensor, "n h e"], end: Tensor) -> Float[Tensor, "n d"]:
    """Return what the heads of a layer write at ``end``, the ablated ones and b_O included."""
    return z.flatten(1) @ base.heads[layer].out + end_of(base.constants[layer], end)


def mlp_write_end(base: Base, layer: int, x: Float[Tensor, "n d"], mid: Float[Tensor, "n d"], end: Tensor) -> Tensor:
    """Return what the MLP writes at ``end``."""
    if layer in base.live.mlps:
        return mlp(base.model, layer, mlp_input(base.model, x, mid))
    return end_of(base.mlps[layer], end)


def tail(base: Base, x: Tensor, layer: int, run: Run) -> Float[Tensor, "n 2"]:
    """Run the base from the input of ``layer`` to the answers' logits; from its top layer on only at ``end``.

    ``x`` is [n T d], and above the top layer [n d] at ``end``.
    """
    if layer <= base.top:
        for later in range(layer, base.top):
            x = layer_of(base, later, x)
        z, x = heads_out(base, base.top, x, run.end)[:, 0], at(x, run.end)
        mid = x + heads_write_end(base, base.top, z, run.end)
        x = mid + mlp_write_end(base, base.top, x, mid, run.end)
    for later in range(max(layer, base.top + 1), base.last + 1):
        mid = x + end_of(base.constants[later], run.end)
        x = mid + mlp_write_end(base, later, x, mid, run.end)
    return unembed(base.model, x, run.answers)


# ---- one node reads something else -----------------------------------------------------------------------------------


def normed(base: Base, layer: int, x: Tensor) -> Tensor:
    """Return the stream as the heads of a layer see it: after LayerNorm."""
    return layer_norm(base.model.blocks[layer].norm1, x, base.model.spec.eps)


def one_head(
    base: Base, layer: int, index: int, which: str, h: Float[Tensor, "n T d"], qkv: Sequence[Tensor], end: Tensor | None
) -> Float[Tensor, "n T e"]:
    """Return z of the ``index``-th live head of a layer, its q, k or v computed from the normalised stream ``h``.

    ``qkv`` are those of all live heads, [n h T e]. With ``end`` the query is there alone ([n h 1 e]), and T is 1 in the result.
    """
    w, columns = base.heads[layer], _columns(base, index)
    weight, bias = getattr(w, which)[:, columns], getattr(w, f"{which}_bias")
    own, positions = h, torch.arange(h.shape[1], device=h.device)[None]
    if end is not None and which == "q":
        own, positions = at(h, end)[:, None], end[:, None]
    new = affine(own, weight, None if bias is None else bias[columns])[:, None]
    new = new if which == "v" else rotate(base.model.spec, new, positions)
    q, k, v = (new if name == which else part[:, index : index + 1] for name, part in zip(INPUTS, qkv, strict=True))
    return attend(q, k, v, None if end is None else seen(k, end))[:, :, 0]


def _columns(base: Base, index: int) -> slice:
    return slice(index * base.model.spec.d_head, (index + 1) * base.model.spec.d_head)


def write_of(base: Base, layer: int, index: int, z: Float[Tensor, "*b e"]) -> Float[Tensor, "*b d"]:
    """Return what the ``index``-th live head of a layer writes."""
    return z @ base.heads[layer].out[_columns(base, index)]


def head_reads(base: Base, run: Run, layer: int, index: int, which: str, h: Float[Tensor, "n T d"]) -> Float[Tensor, "n 2"]:
    """Return the answers' logits when q, k or v of the ``index``-th live head is computed from ``h``, all else clean.

    ``h`` is the normalised stream. Everything after the head is recomputed.
    """
    if layer < base.top:
        z = one_head(base, layer, index, which, h, run.qkv[layer], None)
        mid = run.mid[layer] + write_of(base, layer, index, z - run.z[layer][:, :, index])
        return tail(base, mid + mlp_write(base, layer, run.x[layer], mid), layer + 1, run)
    q, k, v = run.qkv[layer]
    q = at(q.transpose(1, 2), run.end)[:, :, None]
    z = one_head(base, layer, index, which, h, (q, k, v), run.end)[:, 0]
    mid = at(run.mid[layer], run.end) + write_of(base, layer, index, z - at(run.z[layer], run.end)[:, index])
    out = mlp_write_end(base, layer, at(run.x[layer], run.end), mid, run.end)
    return tail(base, mid + out, layer + 1, run)


def mlp_writes(base: Base, run: Run, layer: int, out: Tensor) -> Float[Tensor, "n 2"]:
    """Return the answers' logits when an MLP writes ``out``, else clean: [n T d]; from the top layer on at ``end``, [n d]."""
    mid = run.mid[layer]
    return tail(base, (mid if layer < base.top else at(mid, run.end)) + out, layer + 1, run)


def written(base: Base, clean: Run, other: Run, node: Node) -> Float[Tensor, "n T d"]:
    """Return what a live node writes in another run less what it writes in the clean one."""
    if node.kind == "embed":
        return other.x[0] - clean.x[0]
    if node.kind == "mlp":
        return other.out[node.layer] - clean.out[node.layer]
    index = base.live.heads[node.layer].index(node.head)
    return write_of(base, node.layer, index, other.z[node.layer][:, :, index] - clean.z[node.layer][:, :, index])


def layer_receivers(base: Base, layer: int) -> Iterator[tuple[Node, int]]:
    """Yield the q, k and v inputs of a layer's live heads, and each head's index among these."""
    for index, h in enumerate(base.live.heads[layer]):
        for which in INPUTS:
            yield replace(head(layer, h), input=which), index


def layer_mlp(base: Base, layer: int) -> Node | None:
    """Return the MLP of a layer where it is live."""
    return mlp_node(layer) if layer in base.live.mlps else None


def part_of(run: Run, rows: slice) -> Run:
    """Return a run of some of its prompts."""
    n = len(run.end)

    def cut(thing):
        if isinstance(thing, Tensor):
            return thing[rows] if len(thing) == n else thing
        return tuple(map(cut, thing))

    return Run(*(cut(getattr(run, field.name)) for field in fields(Run)))
