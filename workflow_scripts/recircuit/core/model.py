"""A GPT-like transformer as a frozen bundle of weights and a few pure functions, each a few lines of its mathematics.

Shapes: n prompts, T positions, d residual width, H heads, e head width, f MLP width, V vocabulary. The residual stream
entering layer l is ``x``; ``attention`` gives the heads' outputs z before W_O, so that x_mid = x + sum_h z_h W_O^h + b_O and
x_next = x_mid + mlp(mlp_input(x, x_mid)): the MLP reads x_mid, or x itself where attention and MLP stand in parallel
(GPT-NeoX). Written after nanoGPT's ``model.py`` and checked against transformers in float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from recircuit.core.errors import UserError

ACTIVATIONS = {
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_fast": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "gelu": F.gelu,
    "relu": F.relu,
    "silu": F.silu,
}


@dataclass(frozen=True)
class Spec:
    """The shape of a model. ``eps`` is the norms'; ``activation`` is a key of ACTIVATIONS.

    ``n_kv_heads`` heads of keys and values serve ``n_heads`` queries in consecutive groups. The first ``rotary`` of the e
    coordinates of queries and keys are rotated by position (0: learned positions), with angles of base ``theta``.
    ``parallel``: the MLP reads what attention reads.
    """

    family: Literal["gpt2", "neox", "llama"]
    n_layers: int
    n_heads: int
    d_model: int
    d_head: int
    d_mlp: int
    n_positions: int
    n_vocab: int
    eps: float
    activation: str
    n_kv_heads: int | None = None
    rotary: int = 0
    theta: float = 10_000.0
    parallel: bool = False


class Norm(NamedTuple):
    """LayerNorm's scale and shift, each [d]; without a shift it is RMSNorm, which does not centre."""

    weight: Tensor
    bias: Tensor | None = None


class Heads(NamedTuple):
    """The projections of some heads of one layer; all heads, or only those of a circuit. K of the H heads have own keys."""

    q: Tensor  # [d, H*e]
    k: Tensor  # [d, K*e]
    v: Tensor  # [d, K*e]
    q_bias: Tensor | None  # [H*e]
    k_bias: Tensor | None  # [K*e]
    v_bias: Tensor | None  # [K*e]
    out: Tensor  # [H*e, d]


class Block(NamedTuple):
    """The weights of one layer."""

    norm1: Norm
    heads: Heads
    out_bias: Tensor  # [d], zeros where a model has none: it is added to constants everywhere
    norm2: Norm
    up: Tensor  # [d, f]
    up_bias: Tensor | None  # [f]
    down: Tensor  # [f, d]
    down_bias: Tensor | None  # [d]
    gate: Tensor | None = None  # [d, f]
    gate_bias: Tensor | None = None  # [f]


@dataclass(frozen=True)
class Model:
    """Weights and shape of a model; ``unembedding`` is [V, d], tied to ``tokens`` in GPT-2."""

    spec: Spec
    tokens: Tensor  # [V, d]
    positions: Tensor | None  # [T_max, d], None where positions are rotations
    blocks: tuple[Block, ...]
    final_norm: Norm
    unembedding: Tensor  # [V, d]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.tokens.device

    @property
    def dtype(self) -> torch.dtype:
        """The weights' floating-point type."""
        return self.tokens.dtype

    def to(self, *, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> "Model":
        """Return a copy on another device or in another precision."""
        done: dict[int, Tensor] = {}  # a tied matrix stays one

        def move(tensor: Tensor) -> Tensor:
            if id(tensor) not in done:
                done[id(tensor)] = tensor.to(device=device, dtype=dtype)
            return done[id(tensor)]

        return map_tensors(self, move)


def map_tensors(thing, function):
    """Apply ``function`` to every tensor of a Model, Block, Norm or tuple of these."""
    if isinstance(thing, Tensor):
        return function(thing)
    if isinstance(thing, Model):
        return Model(**{f.name: map_tensors(getattr(thing, f.name), function) for f in fields(Model)})
    if isinstance(thing, tuple):
        mapped = [map_tensors(part, function) for part in thing]
        return type(thing)(*mapped) if hasattr(thing, "_fields") else tuple(mapped)
    return thing


def layer_norm(norm: Norm, x: Float[Tensor, "*b d"], eps: float) -> Float[Tensor, "*b d"]:
    """Centre, divide by the standard deviation, scale and shift; RMSNorm (no shift) divides by the root mean square."""
    if norm.bias is None:
        return F.rms_norm(x, x.shape[-1:], norm.weight, eps)
    return F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, eps)


def affine(x: Float[Tensor, "*b i"], weight: Float[Tensor, "i o"], bias: Tensor | None) -> Float[Tensor, "*b o"]:
    """Return x W + b in one product over all rows."""
    flat = x.reshape(-1, x.shape[-1])
    out = flat @ weight if bias is None else torch.addmm(bias, flat, weight)
    return out.view(*x.shape[:-1], -1)


def embed(model: Model, tokens: Int[Tensor, "n T"], start: int = 0) -> Float[Tensor, "n T d"]:
    """Return the residual stream entering layer 0: token plus position embedding; ``start`` is the first position.

    Raises UserError for more positions than the model has, or than its window of attention sees; and for a token that the
    vocabulary lacks, since a negative one would count from its end.
    """
    if start + tokens.shape[1] > model.spec.n_positions:
        needed, there = start + tokens.shape[1], model.spec.n_positions
        raise UserError(f"prompts of {needed} tokens are too long; the model's config.json allows {there} positions")
    if tokens.numel():
        low, high = (int(end) for end in tokens.aminmax())
        if low < 0 or high >= len(model.tokens):
            wrong, last = low if low < 0 else high, len(model.tokens) - 1
            raise UserError(f"the prompts hold the token {wrong}; the model's config.json allows 0 to {last}")
    x = model.tokens[tokens]
    return x if model.positions is None else x + model.positions[start : start + tokens.shape[1]]


def select_heads(model: Model, layer: int, heads: Sequence[int]) -> Heads:
    """Return the projections of some heads only; the others then cost nothing."""
    every, e = model.blocks[layer].heads, model.spec.d_head
    if list(heads) == list(range(model.spec.n_heads)):
        return every
    group = model.spec.n_heads // (model.spec.n_kv_heads or model.spec.n_heads)

    def columns(chosen: Sequence[int]) -> Tensor:
        return torch.cat([torch.arange(h * e, (h + 1) * e) for h in chosen] or [torch.arange(0)]).to(model.device)

    own, shared = columns(heads), columns([h // group for h in heads])
    q, k, v, qb, kb, vb, out = every
    biases = (None if b is None else b[c] for b, c in ((qb, own), (kb, shared), (vb, shared)))
    return Heads(q[:, own], k[:, shared], v[:, shared], *biases, out[own])


def rotate(spec: Spec, x: Float[Tensor, "n H T e"], positions: Int[Tensor, "n T"]) -> Float[Tensor, "n H T e"]:
    """Rotate the first ``spec.rotary`` coordinates by position: coordinate i pairs with i + rotary/2 (RoFormer, as in NeoX)."""
    if not spec.rotary:
        return x
    # Angles in float32 at least, as in transformers; in float64 for float64 weights.
    exact = torch.promote_types(x.dtype, torch.float32)
    steps = torch.arange(0, spec.rotary, 2, device=x.device, dtype=exact) / spec.rotary
    angles = positions[:, None, :, None].to(exact) * (1.0 / spec.theta**steps)  # [n 1 T rotary/2]
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b, rest = x.split([spec.rotary // 2, spec.rotary // 2, x.shape[-1] - spec.rotary], dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1)


def project(
    model: Model,
    layer: int,
    x: Float[Tensor, "n T d"],
    heads: Heads | None = None,
    *,
    end: Tensor | None = None,
    start: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values [n H T e] of a layer, rotated where the model rotates.

    ``heads`` restricts the work to some heads. With ``end`` [n] only the query at that position is computed, [n H 1 e].
    ``start`` is the position of the first row of ``x``.
    """
    w, e = heads or model.blocks[layer].heads, model.spec.d_head
    h = layer_norm(model.blocks[layer].norm1, x, model.spec.eps)

    def split(y: Tensor) -> Tensor:
        return y.view(*y.shape[:-1], -1, e).transpose(1, 2)

    positions = torch.arange(start, start + x.shape[1], device=x.device)[None]
    q = split(affine(h if end is None else at(h, end)[:, None], w.q, w.q_bias))
    k, v = split(affine(h, w.k, w.k_bias)), split(affine(h, w.v, w.v_bias))
    q = rotate(model.spec, q, positions if end is None else end[:, None])
    k = rotate(model.spec, k, positions)
    group = q.shape[1] // max(1, k.shape[1])
    return (q, k, v) if group == 1 else (q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1))


def attend(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None = None) -> Float[Tensor, "n T h e"]:
    """Return z [n T H e] of queries, keys and values [n H T e]: causal, or over the positions ``seen`` [n T T']."""
    if seen is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None]).transpose(1, 2)


def attention(
    model: Model, layer: int, x: Float[Tensor, "n T d"], heads: Heads | None = None, *, end: Tensor | None = None
) -> Float[Tensor, "n T h e"]:
    """Return z, the output of each head before W_O, for the residual stream entering the layer.

    ``heads`` restricts the work to some heads. With ``end`` [n] (a position per prompt) only that query is computed, over
    keys and values of all positions before and at it, and T is 1 in the result.
    """
    q, k, v = project(model, layer, x, heads, end=end)
    if end is None:
        return attend(q, k, v)
    return attend(q, k, v, (torch.arange(x.shape[1], device=x.device) <= end[:, None])[:, None])


def attention_out(heads: Heads, z: Float[Tensor, "n T h e"]) -> Float[Tensor, "n T d"]:
    """Return what the heads write into the residual stream, without b_O."""
    return z.flatten(2) @ heads.out


def mlp_input(model: Model, x: Tensor, mid: Tensor) -> Tensor:
    """Return what the MLP reads: the stream after attention, or the one before it where the two stand in parallel."""
    return x if model.spec.parallel else mid


def mlp(model: Model, layer: int, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
    """Return what the MLP writes, for what it reads (``mlp_input``)."""
    block, act = model.blocks[layer], ACTIVATIONS[model.spec.activation]
    h = layer_norm(block.norm2, x, model.spec.eps)
    up = affine(h, block.up, block.up_bias)
    hidden = act(up) if block.gate is None else act(affine(h, block.gate, block.gate_bias)) * up
    return affine(hidden, block.down, block.down_bias)


def unembed(
    model: Model, x: Float[Tensor, "n d"], columns: Int[Tensor, "n c"] | None = None
) -> Float[Tensor, "n c"] | Float[Tensor, "n V"]:
    """Return logits of the residual stream after the last layer: of the given tokens per prompt, or of all."""
    h = layer_norm(model.final_norm, x, model.spec.eps)
    if columns is None:
        return h @ model.unembedding.T
    return torch.einsum("nd,ncd->nc", h, model.unembedding[columns])


def at(x: Float[Tensor, "n T *r"], end: Int[Tensor, " n"]) -> Float[Tensor, " n *r"]:
    """Pick one position per prompt."""
    return x[torch.arange(x.shape[0], device=x.device), end]
