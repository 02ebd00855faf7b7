"""Path patching at the last position by delta arithmetic: no second forward, no hooks.

Greater-than, section 1.1: a *base* run and a *patch* run; a path set names the paths along which the patch run's values travel;
every node on a path is recomputed, every other node keeps its base value (``Freeze.ALL``), LayerNorms are always recomputed.
A direct edge skips all heads and MLPs in between, so a change of the residual stream enters a later node as it is: the path
sets of the paper are sums of such changes, and each of them is a few rows of a few MLPs.

Nodes carry no output bias (a constant): heads write z W_O, value bias inside z; MLPs write without ``down_bias``.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recircuit.core.model import (
    Model,
    affine,
    at,
    attend,
    attention_out,
    embed,
    layer_norm,
    mlp,
    mlp_input,
    project,
    rotate,
)
from recircuit.core.nodes import Node
from recircuit.runs.forward import layer_step


@dataclass(frozen=True)
class Run:
    """One plain run at one position per prompt; entry l of each tuple is layer l's, n prompts.

    ``pre`` [n d] enters the layer (at ``end`` one more entry, the final stream), ``reads`` [n d] is what the MLP reads, ``z``
    [n H e] and ``out`` [n d] what the heads (before W_O) and the MLP (with its bias) write; the last layer's only at ``end``.
    """

    pre: tuple[Tensor, ...]
    reads: tuple[Tensor, ...]
    z: tuple[Tensor, ...]
    out: tuple[Tensor, ...]

    @property
    def final(self) -> Float[Tensor, "n d"]:
        """The residual stream that the final norm reads."""
        return self.pre[-1]


@dataclass(frozen=True)
class Plain:
    """A plain run of [n T] tokens: rows by named position, and queries at ``end``, keys and values of every layer.

    ``q`` [n H 1 e], ``k`` and ``v`` [n H T e], entry l of layer l; ``positions`` [n] by name.
    """

    at: Mapping[str, Run]
    q: tuple[Tensor, ...]
    k: tuple[Tensor, ...]
    v: tuple[Tensor, ...]
    positions: Mapping[str, Tensor]


@torch.inference_mode()
def plain_run(
    model: Model, tokens: Int[Tensor, "n T"], positions: Mapping[str, Int[Tensor, " n"]], past: "Plain | None" = None
) -> Plain:
    """Run a model and keep what path patching needs; the last layer is run at ``end`` alone, so other positions lack it.

    ``past`` is a run of prompts that begin with the same tokens, a row per prompt, cut by ``prefix``: what it covers is not
    run again, and no position before its end may be asked for.
    """
    start = 0 if past is None else past.k[0].shape[2]
    x, attention = embed(model, tokens[:, start:], start), []
    entered, rows = ({name: [] for name in positions} for _ in range(2))
    own = {name: pos - start for name, pos in positions.items()}
    last, length = model.spec.n_layers - 1, tokens.shape[1]
    every = torch.arange(length, device=x.device)
    seen = (every <= every[start:, None])[None]
    for layer, block in enumerate(model.blocks):
        q, k, v = project(model, layer, x, start=start)
        if past is not None:
            k, v = torch.cat([past.k[layer], k], 2), torch.cat([past.v[layer], v], 2)
        attention.append((_row(q, own["end"]), k, v))
        for name, pos in own.items():
            entered[name].append(at(x, pos))
        if layer == last:  # only the end's row goes on
            q, seen, x = attention[-1][0], (every <= positions["end"][:, None])[:, None], at(x, own["end"])[:, None]
        z = attend(q, k, v, seen.expand(len(x), -1, -1))
        mid = x + attention_out(block.heads, z) + block.out_bias
        reads = mlp_input(model, x, mid)
        out = mlp(model, layer, reads)
        for name, pos in own.items():
            if layer < last or name == "end":
                where = torch.zeros_like(pos) if layer == last else pos
                rows[name].append(tuple(at(part, where) for part in (reads, z, out)))
        x = mid + out
    entered["end"].append(x[:, 0])
    runs = {name: Run(tuple(entered[name]), *map(tuple, zip(*rows[name], strict=True))) for name in positions}
    return Plain(runs, *map(tuple, zip(*attention, strict=True)), positions)


def prefix(plain: Plain, length: int, rows: Int[Tensor, " m"]) -> Plain:
    """Return the keys and values of the first ``length`` positions of some rows, for prompts that begin alike."""
    return Plain({}, (), *(tuple(part[rows, :, :length] for part in parts) for parts in (plain.k, plain.v)), {})


def take(plain: Plain, rows: Int[Tensor, " m"]) -> Plain:
    """Return some rows of a run, repeated as they are named."""
    runs = {name: Run(*(tuple(part[rows] for part in parts) for parts in vars(run).values())) for name, run in plain.at.items()}
    cached = (tuple(part[rows] for part in parts) for parts in (plain.q, plain.k, plain.v))
    return Plain(runs, *cached, {name: pos[rows] for name, pos in plain.positions.items()})


def _row(x: Float[Tensor, "n H T e"], pos: Int[Tensor, " n"]) -> Float[Tensor, "n H 1 e"]:
    return x[torch.arange(len(x), device=x.device), :, pos][:, :, None]


# ---- what nodes write -----------------------------------------------------------------------------------------------


def head_write(model: Model, layer: int, head: int, z: Float[Tensor, "*b e"]) -> Float[Tensor, "*b d"]:
    """Return what one head writes into the residual stream, from its z."""
    e = model.spec.d_head
    return z @ model.blocks[layer].heads.out[head * e : (head + 1) * e]


def write_of(model: Model, run: Run, layer: int, head: int | None) -> Float[Tensor, "n d"]:
    """Return what a head, or with ``head`` None the MLP, of a layer wrote, without the output bias."""
    if head is not None:
        return head_write(model, layer, head, run.z[layer][:, head])
    bias = model.blocks[layer].down_bias
    return run.out[layer] if bias is None else run.out[layer] - bias


def delta(model: Model, base: Run, patch: Run, layer: int, head: int | None) -> Float[Tensor, "n d"]:
    """Return how much a head's or an MLP's write changes from the base run to the patch run."""
    return write_of(model, patch, layer, head) - write_of(model, base, layer, head)


def enters_mlp(model: Model, head_layer: int, mlp_layer: int) -> bool:
    """Tell whether a head of one layer is read by the MLP of another: in its own layer only if the two stand in series."""
    return head_layer < mlp_layer or (head_layer == mlp_layer and not model.spec.parallel)


# ---- from the streams of MLPs to the final stream -------------------------------------------------------------------


def mlp_deltas(
    model: Model, base: Run, mlps: Iterable[int], enters: Mapping[int, Tensor], *, chain: bool = True
) -> dict[int, Float[Tensor, "*b d"]]:
    """Return the change of each MLP whose input changes by ``enters[l]`` and (``chain``) by the changes of those before it."""
    found: dict[int, Tensor] = {}
    for layer in sorted(mlps):
        change = sum(found.values()) if chain and found else 0
        change = change + enters.get(layer, 0)
        if isinstance(change, Tensor):
            found[layer] = mlp(model, layer, base.reads[layer] + change) - base.out[layer]
    return found


def through_mlps(
    model: Model, base: Run, mlps: Iterable[int], enters: Mapping[int, Tensor], direct: Tensor | float = 0.0
) -> Float[Tensor, "*b d"]:
    """Return the final stream when ``enters[l]`` is added to what MLP l reads, and ``direct`` to the final stream.

    x_l = reads_l + enters_l + sum_{j<l} dm_j, dm_l = M_l(x_l) - M_l(reads_l) for the ``mlps`` l in order; the result is
    final + direct + sum dm_l. Leading dimensions of the changes (senders, circuits) are kept: [*b n d].
    """
    changes = mlp_deltas(model, base, mlps, enters)
    return base.final + direct + (sum(changes.values()) if changes else 0)


# ---- the inputs of heads (greater-than, E4) --------------------------------------------------------------------------


def normed(model: Model, layer: int, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
    """Return what the heads of a layer read: the stream after the layer's first norm."""
    return layer_norm(model.blocks[layer].norm1, x, model.spec.eps)


def columns(model: Model, layer: int, head: int, which: str) -> tuple[Tensor, Tensor | None]:
    """Return W [d e] and b [e] of a head's query, key or value (``which`` q, k or v); grouped keys are shared."""
    spec, heads = model.spec, model.blocks[layer].heads
    group = 1 if which == "q" else spec.n_heads // (spec.n_kv_heads or spec.n_heads)
    part = slice(head // group * spec.d_head, (head // group + 1) * spec.d_head)
    bias = getattr(heads, f"{which}_bias")
    return getattr(heads, which)[:, part], None if bias is None else bias[part]


def pattern_row(plain: Plain, layer: int, head: int) -> Float[Tensor, "n T"]:
    """Return a head's attention from ``end`` to every position."""
    q, k = plain.q[layer][:, head], plain.k[layer][:, head]
    return _softmax(plain, (q @ k.transpose(1, 2))[:, 0] / q.shape[-1] ** 0.5)


def _softmax(plain: Plain, scores: Float[Tensor, "*s n T"]) -> Float[Tensor, "*s n T"]:
    seen = torch.arange(scores.shape[-1], device=scores.device) <= plain.positions["end"][:, None]
    return scores.masked_fill(~seen, -torch.inf).softmax(-1)


def value_change(model: Model, plain: Plain, layer: int, head: int, change: Float[Tensor, "*s n d"], name: str = "yy"):
    """Return the change of a head's write at ``end`` when only its value input at a position changes: [*s n d].

    A[end, yy] ((LN(x + change) - LN(x)) W_V) W_O, exact since values enter linearly.
    """
    x, (w, _) = plain.at[name].pre[layer], columns(model, layer, head, "v")
    moved = (normed(model, layer, x + change) - normed(model, layer, x)) @ w
    share = pattern_row(plain, layer, head)[torch.arange(len(x), device=x.device), plain.positions[name]]
    return head_write(model, layer, head, share[:, None] * moved)


def key_change(model: Model, plain: Plain, layer: int, head: int, change: Float[Tensor, "*s n d"], name: str = "yy"):
    """Return the change of a head's write at ``end`` when only its key input at a position changes: [*s n d]."""
    key = _projected(model, plain, layer, head, "k", change, name)  # [*s n e]
    return _rescored(model, plain, layer, head, {"key": key, "name": name})


def query_change(model: Model, plain: Plain, layer: int, head: int, change: Float[Tensor, "*s n d"]):
    """Return the change of a head's write at ``end`` when only its query input there changes: [*s n d]."""
    return _rescored(model, plain, layer, head, {"query": _projected(model, plain, layer, head, "q", change, "end")})


def _projected(model: Model, plain: Plain, layer: int, head: int, which: str, change: Tensor, name: str) -> Tensor:
    w, b = columns(model, layer, head, which)
    y = affine(normed(model, layer, plain.at[name].pre[layer] + change), w, b)
    return rotated(model, y, plain.positions[name])


def rotated(model: Model, y: Float[Tensor, "*s n e"], positions: Int[Tensor, " n"]) -> Float[Tensor, "*s n e"]:
    """Rotate a query or a key at a position per prompt, where the model rotates."""
    if not model.spec.rotary:
        return y
    flat = y.reshape(-1, *y.shape[-2:]).transpose(0, 1)[:, None]  # [n 1 s e]: the senders stand where positions would
    turned = rotate(model.spec, flat, positions[:, None].expand(-1, flat.shape[2]))
    return turned[:, 0].transpose(0, 1).reshape(y.shape)


def _rescored(model: Model, plain: Plain, layer: int, head: int, new: Mapping) -> Tensor:
    q, k, v = plain.q[layer][:, head, 0], plain.k[layer][:, head], plain.v[layer][:, head]
    before = torch.einsum("ne,nte->nt", q, k)
    if "query" in new:
        scores = torch.einsum("...ne,nte->...nt", new["query"], k)
    else:
        where = plain.positions[new["name"]]
        one = torch.zeros_like(before).scatter_(1, where[:, None], 1.0)
        scores = before + one * ((new["key"] * q).sum(-1) - at(before[..., None], where)[:, 0])[..., None]
    scale = q.shape[-1] ** 0.5
    z = torch.einsum("...nt,nte->...ne", _softmax(plain, scores / scale) - _softmax(plain, before / scale), v)
    return head_write(model, layer, head, z)


@torch.inference_mode()
def full_patterns(model: Model, tokens: Int[Tensor, "n T"], heads: Iterable[Node]) -> dict[Node, Float[Tensor, "n T T"]]:
    """Return the whole attention pattern of some heads."""
    x, found, heads = embed(model, tokens), {}, list(heads)
    causal = torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool, device=x.device).tril()
    for layer in range(max((node.layer for node in heads), default=-1) + 1):
        q, k, _ = project(model, layer, x)
        for node in heads:
            if node.layer == layer:
                scores = q[:, node.head] @ k[:, node.head].transpose(1, 2) / q.shape[-1] ** 0.5
                found[node] = scores.masked_fill(~causal, -torch.inf).softmax(-1)
        x = layer_step(model, layer, x)[0]
    return found


# ---- heads with inputs from different runs ---------------------------------------------------------------------------


def mixed_head(model: Model, q: Plain, k: Plain, v: Plain, layer: int, head: int) -> Float[Tensor, "n d"]:
    """Return what a head writes at ``end`` with queries, keys and values of three runs (greater-than, E3's variants)."""
    scores = (q.q[layer][:, head] @ k.k[layer][:, head].transpose(1, 2))[:, 0] / model.spec.d_head**0.5
    z = torch.einsum("nt,nte->ne", _softmax(q, scores), v.v[layer][:, head])
    return head_write(model, layer, head, z)


def rebuilt_head(
    model: Model, base: Plain, query: Plain, layer: int, head: int, change: Float[Tensor, "n d"], name: str = "yy"
) -> Float[Tensor, "n d"]:
    """Return what a head writes at ``end`` with another run's query, and ``change`` added to what k and v read at one position.

    Greater-than, E6: queries are clean; keys and values read the base run plus the changes of the low nodes at YY.
    """
    where, rows = base.positions[name], torch.arange(len(change), device=change.device)
    k, v = base.k[layer][:, head].clone(), base.v[layer][:, head].clone()
    k[rows, where] = _projected(model, base, layer, head, "k", change, name)
    w, b = columns(model, layer, head, "v")
    v[rows, where] = affine(normed(model, layer, base.at[name].pre[layer] + change), w, b)
    scores = torch.einsum("ne,nte->nt", query.q[layer][:, head, 0], k) / model.spec.d_head**0.5
    return head_write(model, layer, head, torch.einsum("nt,nte->ne", _softmax(base, scores), v))


# ---- activation patching at the end position ---------------------------------------------------------------------------


@torch.inference_mode()
def end_suffix(model: Model, plain: Plain, x: Float[Tensor, "*s n d"], layer: int) -> Float[Tensor, "*s n d"]:
    """Return the final stream when the stream entering ``layer`` at the end is ``x``, and everything after it is recomputed.

    Later positions do not exist and earlier ones do not see the end, so their keys and values are the plain run's: a patch at
    the end costs one row per prompt and layer.
    """
    shape = x.shape
    x = x.reshape(-1, *shape[-2:])  # [s n d]
    where = plain.positions["end"]
    for later in range(layer, model.spec.n_layers):
        block, h = model.blocks[later], normed(model, later, x)
        q, k, v = (_heads(model, later, which, h, where) for which in "qkv")  # [s n H e]
        old_k, old_v = plain.k[later], plain.v[later]  # [n H T e]
        own = torch.einsum("snhe,snhe->snh", q, k)[..., None]
        scores = torch.einsum("snhe,nhte->snht", q, old_k)
        here = torch.arange(scores.shape[-1], device=x.device) == where[:, None, None]  # [n 1 T]
        scores = torch.where(here, own, scores) / model.spec.d_head**0.5
        after = torch.arange(scores.shape[-1], device=x.device) > where[:, None, None]
        pattern = scores.masked_fill(after, -torch.inf).softmax(-1)
        share = (pattern * here).sum(-1, keepdim=True)
        z = torch.einsum("snht,nhte->snhe", pattern.masked_fill(here, 0.0), old_v) + share * v
        mid = x + z.flatten(2) @ block.heads.out + block.out_bias
        x = mid + mlp(model, later, mlp_input(model, x, mid))
    return x.reshape(shape)


def _heads(model: Model, layer: int, which: str, h: Float[Tensor, "s n d"], where: Tensor) -> Float[Tensor, "s n H e"]:
    heads, spec = model.blocks[layer].heads, model.spec
    y = affine(h, getattr(heads, which), getattr(heads, f"{which}_bias")).unflatten(-1, (-1, spec.d_head))
    if which != "v":
        y = torch.stack([rotated(model, part, where) for part in y.unbind(-2)], -2) if spec.rotary else y
    return y if which == "q" else y.repeat_interleave(spec.n_heads // y.shape[-2], -2)
