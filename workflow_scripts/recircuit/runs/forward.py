"""Forward passes: plain, with a cache of what each component wrote, and from the middle of the model on."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recircuit.core.model import Model, at, attention, attention_out, embed, mlp, mlp_input, unembed


@dataclass(frozen=True)
class Cache:
    """What a clean run left behind, per layer: ``x`` and ``mid`` [n T d], ``z`` [n T H e] before W_O, ``mlp`` [n T d]."""

    x: tuple[Tensor, ...]
    mid: tuple[Tensor, ...]
    z: tuple[Tensor, ...]
    mlp: tuple[Tensor, ...]


def layer_step(model: Model, layer: int, x: Float[Tensor, "n T d"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run one layer; return (x of the next layer, mid, z, mlp output)."""
    block = model.blocks[layer]
    z = attention(model, layer, x)
    mid = x + attention_out(block.heads, z) + block.out_bias
    out = mlp(model, layer, mlp_input(model, x, mid))
    return mid + out, mid, z, out


def run_with_cache(model: Model, tokens: Int[Tensor, "n T"], *, n_layers: int | None = None) -> Cache:
    """Run the first ``n_layers`` layers (all by default) and keep what every component wrote, at all positions."""
    x, steps, entered = embed(model, tokens), [], []
    for layer in range(model.spec.n_layers if n_layers is None else n_layers):
        entered.append(x)
        x, *rest = layer_step(model, layer, x)
        steps.append(rest)
    mid, z, out = zip(*steps, strict=True)
    return Cache((*entered, x), mid, z, out)


def last_layer_tail(model: Model, x: Float[Tensor, "n T d"], end: Int[Tensor, " n"]) -> Float[Tensor, "n d"]:
    """Run the last layer at one position per prompt, over keys and values of all; return its residual stream."""
    layer = model.spec.n_layers - 1
    block = model.blocks[layer]
    z = attention(model, layer, x, end=end)
    x_end = at(x, end)
    mid = x_end + attention_out(block.heads, z)[:, 0] + block.out_bias
    return mid + mlp(model, layer, mlp_input(model, x_end, mid))


def finish(
    model: Model,
    x: Float[Tensor, "n T d"],
    layer: int,
    end: Int[Tensor, " n"],
    columns: Int[Tensor, "n c"] | None = None,
) -> Float[Tensor, "n c"]:
    """Run from the residual stream entering ``layer`` to the logits at one position per prompt (``columns`` of them)."""
    for later in range(layer, model.spec.n_layers - 1):
        x = layer_step(model, later, x)[0]
    x_end = last_layer_tail(model, x, end) if layer < model.spec.n_layers else at(x, end)
    return unembed(model, x_end, columns)


@torch.inference_mode()
def forward(
    model: Model, tokens: Int[Tensor, "n T"], end: Int[Tensor, " n"], columns: Int[Tensor, "n c"] | None = None
) -> Float[Tensor, "n c"]:
    """Return the logits at position ``end`` of each prompt: of ``columns`` per prompt, or of the whole vocabulary."""
    return finish(model, embed(model, tokens), 0, end, columns)
