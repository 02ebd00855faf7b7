"""A GPT-like transformer as a frozen bundle of weights and a few pure functions, each a few lines of its mathematics.

Shapes: n prompts, T positions, d residual width, H heads, e head width, f MLP width, V vocabulary. The residual stream
entering layer l is ``x``; ``attention`` gives the heads' outputs z before W_O, so that x_mid = x + sum_h z_h W_O^h + b_O and
x_next = x_mid + mlp(x_mid). Written after nanoGPT's ``model.py`` and checked against transformers in float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

ACTIVATIONS = {
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "gelu": F.gelu,
    "relu": F.relu,
}


@dataclass(frozen=True)
class Spec:
    """The shape of a model. ``eps`` is LayerNorm's; ``activation`` is a key of ACTIVATIONS."""

    family: Literal["gpt2"]
    n_layers: int
    n_heads: int
    d_model: int
    d_head: int
    d_mlp: int
    n_positions: int
    n_vocab: int
    eps: float
    activation: str


class Norm(NamedTuple):
    """LayerNorm's scale and shift, each [d]."""

    weight: Tensor
    bias: Tensor


class Heads(NamedTuple):
    """The projections of some heads of one layer; all heads, or only those of a circuit."""

    q: Tensor  # [d, H*e]
    k: Tensor  # [d, H*e]
    v: Tensor  # [d, H*e]
    q_bias: Tensor  # [H*e]
    k_bias: Tensor  # [H*e]
    v_bias: Tensor  # [H*e]
    out: Tensor  # [H*e, d]


class Block(NamedTuple):
    """The weights of one layer."""

    norm1: Norm
    heads: Heads
    out_bias: Tensor  # [d]
    norm2: Norm
    up: Tensor  # [d, f]
    up_bias: Tensor  # [f]
    down: Tensor  # [f, d]
    down_bias: Tensor  # [d]


@dataclass(frozen=True)
class Model:
    """Weights and shape of a model; ``unembedding`` is [V, d], tied to ``tokens`` in GPT-2."""

    spec: Spec
    tokens: Tensor  # [V, d]
    positions: Tensor  # [T_max, d]
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
        return map_tensors(self, lambda tensor: tensor.to(device=device, dtype=dtype))


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
    """Centre, divide by the standard deviation, scale and shift."""
    return F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, eps)


def embed(model: Model, tokens: Int[Tensor, "n T"]) -> Float[Tensor, "n T d"]:
    """Return the residual stream entering layer 0: token plus position embedding."""
    return model.tokens[tokens] + model.positions[: tokens.shape[1]]


def select_heads(model: Model, layer: int, heads: Sequence[int]) -> Heads:
    """Return the projections of some heads only; the others then cost nothing."""
    every, e = model.blocks[layer].heads, model.spec.d_head
    if list(heads) == list(range(model.spec.n_heads)):
        return every
    columns = torch.cat([torch.arange(h * e, (h + 1) * e) for h in heads] or [torch.arange(0)]).to(model.device)
    q, k, v, qb, kb, vb, out = every
    return Heads(q[:, columns], k[:, columns], v[:, columns], qb[columns], kb[columns], vb[columns], out[columns])


def attention(
    model: Model, layer: int, x: Float[Tensor, "n T d"], heads: Heads | None = None, *, end: Tensor | None = None
) -> Float[Tensor, "n T h e"]:
    """Return z, the output of each head before W_O, for the residual stream entering the layer.

    ``heads`` restricts the work to some heads. With ``end`` [n] (a position per prompt) only that query is computed, over
    keys and values of all positions before and at it, and T is 1 in the result.
    """
    w, e = heads or model.blocks[layer].heads, model.spec.d_head
    h = layer_norm(model.blocks[layer].norm1, x, model.spec.eps)
    n, length, _ = h.shape
    k = torch.addmm(w.k_bias, h.flatten(0, 1), w.k).view(n, length, -1, e).transpose(1, 2)  # [n, H, T, e]
    v = torch.addmm(w.v_bias, h.flatten(0, 1), w.v).view(n, length, -1, e).transpose(1, 2)
    if end is None:
        q = torch.addmm(w.q_bias, h.flatten(0, 1), w.q).view(n, length, -1, e).transpose(1, 2)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
    q = torch.addmm(w.q_bias, at(h, end), w.q).view(n, 1, -1, e).transpose(1, 2)
    seen = torch.arange(length, device=x.device) <= end[:, None]  # [n, T]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None, None, :]).transpose(1, 2)


def attention_out(heads: Heads, z: Float[Tensor, "n T h e"]) -> Float[Tensor, "n T d"]:
    """Return what the heads write into the residual stream, without b_O."""
    return z.flatten(2) @ heads.out


def mlp(model: Model, layer: int, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
    """Return what the MLP writes, for the residual stream after attention (x_mid)."""
    block, flat = model.blocks[layer], x.reshape(-1, x.shape[-1])
    h = torch.addmm(block.up_bias, layer_norm(block.norm2, flat, model.spec.eps), block.up)
    return torch.addmm(block.down_bias, ACTIVATIONS[model.spec.activation](h), block.down).view(x.shape)


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
