"""What a head's weights alone would write: OV circuits read in the vocabulary (sequence continuation, section 3, E8)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recircuit.core.model import Model, affine, embed, layer_norm, unembed
from recircuit.runs.budget import in_chunks
from recircuit.runs.forward import layer_step


def ov_outputs(model: Model, layer: int, x: Float[Tensor, "n d"]) -> Float[Tensor, "n H d"]:
    """Return what each head of a layer would write if it attended to the stream ``x`` alone, without b_O.

    o = v W_O with v = x_hat W_V + b_V; x_hat is normalised by the head's own layer's norm, scale and shift included, which is
    the same as folding them into W_V and b_V. Grouped values serve their heads.
    """
    spec, block = model.spec, model.blocks[layer]
    v = affine(layer_norm(block.norm1, x, spec.eps), block.heads.v, block.heads.v_bias).unflatten(-1, (-1, spec.d_head))
    v = v.repeat_interleave(spec.n_heads // v.shape[1], 1)
    return torch.einsum("nhe,hed->nhd", v, block.heads.out.unflatten(0, (spec.n_heads, spec.d_head)))


@torch.inference_mode()
def ov_top(
    model: Model, tokens: Int[Tensor, "n T"], positions: Int[Tensor, " p"], k: int, chunk: int
) -> Int[Tensor, "n p L H k"]:
    """Return the ``k`` tokens that the OV circuit of every head favours for each of some positions, best first (on the CPU).

    The stream that all heads read is that after block 0, as published: one run of one block, then matrix products. Outputs are
    unembedded through the final norm (its shift too, as when it is folded into b_U). The same order as the published one, whose
    weights are folded and centred: centring those that write moves o along the direction that LayerNorm drops, and centring
    the unembedding moves all logits alike.
    """
    spec = model.spec

    def work(rows: slice) -> Tensor:
        x = layer_step(model, 0, embed(model, tokens[rows]))[0][:, positions].flatten(0, 1)
        best = []
        for layer in range(spec.n_layers):
            for out in ov_outputs(model, layer, x).unbind(1):  # head by head: the logits of all would be [n p H V]
                best.append(unembed(model, out).topk(k).indices)
        return torch.stack(best, 1).view(-1, len(positions), spec.n_layers, spec.n_heads, k).cpu()

    return torch.cat([part for _, part in in_chunks(work, len(tokens), chunk)])
