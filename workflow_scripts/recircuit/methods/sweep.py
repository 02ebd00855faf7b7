"""Ablate every head and MLP of a model, one at a time.

A clean run is cached; each variant joins it at its own layer, so everything before is shared. In the last layer, and from it
to the logits, only the position that is read is computed. The result equals one full forward per node.
"""

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from recircuit.core.model import Model, at, attention, attention_out, embed, mlp, mlp_input, unembed
from recircuit.core.nodes import Node, head
from recircuit.core.nodes import mlp as mlp_node
from recircuit.methods.ablation import Prompts, Reference, pick_position
from recircuit.runs.budget import in_chunks
from recircuit.runs.forward import finish, layer_step


@dataclass(frozen=True)
class Sweep:
    """Answers' logits per prompt: ``full`` [N 2] of the whole model, ``ablated`` [nodes N 2] with one node ablated."""

    nodes: list[Node]
    full: Tensor
    ablated: Tensor


def all_nodes(model: Model) -> list[Node]:
    """Return all nodes in the order of a forward pass: the heads of a layer, then its MLP."""
    layers, heads = range(model.spec.n_layers), range(model.spec.n_heads)
    return [node for layer in layers for node in (*(head(layer, h) for h in heads), mlp_node(layer))]


@torch.inference_mode()
def sweep_nodes(model: Model, prompts: Prompts, reference: Reference, chunk: int) -> Sweep:
    """Ablate each node of the full model at all positions (sequence continuation, section 3, E4)."""
    parts = [part for _, part in in_chunks(partial(_sweep_chunk, model, prompts, reference), len(prompts), chunk)]
    full, ablated = zip(*parts, strict=True)
    return Sweep(all_nodes(model), torch.cat(full), torch.cat(ablated, 1))


def _sweep_chunk(model: Model, prompts: Prompts, reference: Reference, rows: slice) -> tuple[Tensor, Tensor]:
    end, answers, part = prompts.end[rows], prompts.answers[rows], reference.rows(rows)
    x, logits, last = embed(model, prompts.tokens[rows]), [], model.spec.n_layers - 1
    for layer in range(last):
        following, mid, z, out = layer_step(model, layer, x)
        for changed in _head_variants(model, layer, mid, z, part.heads[layer]):
            logits.append(finish(model, _with_mlp(model, layer, changed, out), layer + 1, end, answers))
        logits.append(finish(model, mid + part.mlps[layer], layer + 1, end, answers))
        x = following
    full, tail = _last_layer(model, x, end, answers, part)
    return full, torch.stack([*logits, *tail])


def _head_variants(model: Model, layer: int, mid: Tensor, z: Tensor, values: Tensor):
    """Yield x_mid with the output of one head after another swapped for its reference: a rank-e update."""
    spec = model.spec
    out = model.blocks[layer].heads.out.view(spec.n_heads, spec.d_head, spec.d_model)
    for h in range(spec.n_heads):
        yield mid + (values[..., h, :] - z[..., h, :]) @ out[h]


def _with_mlp(model: Model, layer: int, changed: Tensor, out: Tensor) -> Tensor:
    """Return the next layer's input for a changed x_mid: a parallel MLP does not read it and writes ``out`` all the same."""
    return changed + (out if model.spec.parallel else mlp(model, layer, changed))


def _last_layer(model: Model, x: Float[Tensor, "n T d"], end: Tensor, answers: Tensor, part: Reference):
    layer = model.spec.n_layers - 1
    block = model.blocks[layer]
    z = attention(model, layer, x, end=end)[:, 0]  # [n H e]
    x_end = at(x, end)
    mid = x_end + attention_out(block.heads, z[:, None])[:, 0] + block.out_bias
    out = mlp(model, layer, mlp_input(model, x_end, mid))
    full = unembed(model, mid + out, answers)
    values = pick_position(part.heads[layer], end)
    logits = [
        unembed(model, _with_mlp(model, layer, changed, out), answers)
        for changed in _head_variants(model, layer, mid, z, values)
    ]
    return full, [*logits, unembed(model, mid + pick_position(part.mlps[layer], end), answers)]
