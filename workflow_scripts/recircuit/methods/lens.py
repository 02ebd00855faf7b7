"""The logit lens: the residual stream after each block, unembedded (sequence continuation, section 3, E9).

Entry 0 is the embeddings, entry j the stream after block j - 1. ``published`` unembeds without the final norm, but applies it
twice to the last entry, where transformers has applied it already; ``fixed`` applies it once to every entry.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recircuit.core.model import Model, at, embed, layer_norm, unembed
from recircuit.runs.forward import last_layer_tail, layer_step

VARIANTS = ("published", "fixed")


@torch.inference_mode()
def entries(model: Model, tokens: Int[Tensor, "n T"], end: Int[Tensor, " n"]) -> Iterator[Float[Tensor, "n d"]]:
    """Yield the residual stream at one position per prompt: the embeddings, then after each block."""
    x = embed(model, tokens)
    for layer in range(model.spec.n_layers - 1):
        yield at(x, end)
        x = layer_step(model, layer, x)[0]
    yield at(x, end)
    yield last_layer_tail(model, x, end)


@torch.inference_mode()
def lens_logits(model: Model, x: Float[Tensor, "n d"], entry: int, variant: str) -> Float[Tensor, "n V"]:
    """Return the logits of an entry in one of the two variants."""
    if variant == "fixed":
        return unembed(model, x)
    if entry == model.spec.n_layers:
        return unembed(model, layer_norm(model.final_norm, x, model.spec.eps))
    return x @ model.unembedding.T
