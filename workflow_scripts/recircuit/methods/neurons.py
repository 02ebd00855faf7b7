"""Single neurons of an MLP: what each writes, and the exact effect of swapping one in the final stream (greater-than, E8).

A neuron's write is its activation times a row of W_out; changing one activation by delta moves the final residual stream along
that row, so the final norm's mean and variance change in closed form and the unembedding of every row is computed once.
"""

from collections.abc import Iterator

from jaxtyping import Float, Int
from torch import Tensor

from recircuit.core.errors import UserError
from recircuit.core.model import ACTIVATIONS, Model, affine, layer_norm


def activations(model: Model, layer: int, reads: Float[Tensor, "n d"]) -> Float[Tensor, "n f"]:
    """Return the neurons' activations after the non-linearity (times the gate's input where there is one)."""
    block, act = model.blocks[layer], ACTIVATIONS[model.spec.activation]
    h = layer_norm(block.norm2, reads, model.spec.eps)
    up = affine(h, block.up, block.up_bias)
    return act(up) if block.gate is None else act(affine(h, block.gate, None)) * up


def swap_each(
    model: Model, layer: int, final: Float[Tensor, "n d"], change: Float[Tensor, "n f"], group: int = 16
) -> Iterator[tuple[slice, Float[Tensor, "k n V"]]]:
    """Yield (neurons, logits) when one neuron's activation changes by ``change`` on its direct edge to the logits.

    logits = (A + delta B) / sqrt(var(r) + 2 delta mean(r w) + delta^2 mean(w^2) + eps) + C with r, w centred; A, B and C
    are unembeddings of r, w and the final norm's shift. UserError for RMSNorm, whose formula is another.
    """
    norm, rows = model.final_norm, model.blocks[layer].down
    if norm.bias is None:
        raise UserError("the closed form of single neurons is LayerNorm's; this model has RMSNorm")
    r = final - final.mean(-1, keepdim=True)
    w = rows - rows.mean(-1, keepdim=True)
    a, b = (r * norm.weight) @ model.unembedding.T, None
    shift = norm.bias @ model.unembedding.T
    for start in range(0, len(w), group):
        chosen = slice(start, min(len(w), start + group))
        b = (w[chosen] * norm.weight) @ model.unembedding.T  # [k V]
        d = change[:, chosen].T  # [k n]
        variance = (r**2).mean(-1) + 2 * d * (w[chosen] @ r.T) / r.shape[-1] + d**2 * (w[chosen] ** 2).mean(-1)[:, None]
        yield chosen, (a + d[..., None] * b[:, None]) / (variance + model.spec.eps).sqrt()[..., None] + shift


def year_lens(model: Model, layer: int, acts: Float[Tensor, "n k"], neurons: Int[Tensor, " k"], ids: Int[Tensor, " y"]):
    """Return what neurons write in terms of the years' unembeddings, without a norm: a_n (w_n U), [n k y]."""
    directions = model.blocks[layer].down[neurons] @ model.unembedding[ids].T
    return acts[:, :, None] * directions
