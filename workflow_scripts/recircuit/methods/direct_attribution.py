"""Direct logit attribution: how much each writer of the stream at END adds to the logit difference (sentiment, 3.5: item 1).

A component y of the final stream adds <y - mean(y), w> / sigma: sigma is the final norm's scale in the run itself, w its weight
times the difference of the answers' unembedding vectors. So said, values are those of a model whose LayerNorms are folded and
whose writing weights are centred, without folding any; heads are taken without the constant of their value biases, which
folding moves into the output bias. What is left over, the final norm's shift, is the same for all prompts with the same answers
and cancels in the mean over as many prompts of either class.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recircuit.core.model import Model, at
from recircuit.methods.ablation import zero_reference
from recircuit.methods.direction_hooks import centred_width, norm_scale, readout
from recircuit.methods.end_paths import Plain, Run, head_write, plain_run
from recircuit.runs.budget import in_chunks


class Attribution(NamedTuple):
    """Logits per prompt: of the stream up to each place (``lens``), of every writer (``layers``), of every head [L H n].

    ``lens`` has the layer k whose input it is, and k + 0.5 behind its attention where attention and MLP stand in series.
    """

    lens: dict[float, Tensor]
    layers: dict[str, Tensor]
    heads: Tensor


def scaled(model: Model, vectors: Float[Tensor, "n d"], final: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Return w / sigma for vectors of the unembedding: its product with a part of the final stream is that part's share."""
    # Centred instead of the component: the product is the same.
    return centred_width(model, vectors * model.final_norm.weight) / norm_scale(model, final)


def head_outputs(model: Model, run: Run) -> Float[Tensor, "L H n d"]:
    """Return what every head wrote at END, without the constant of its value bias."""
    constant = zero_reference(model, 1, folded=True).heads[:, 0, 0]  # [L H e]
    spec = model.spec
    layers = [
        torch.stack([head_write(model, l, h, run.z[l][:, h] - constant[l, h]) for h in range(spec.n_heads)])
        for l in range(spec.n_layers)
    ]
    return torch.stack(layers)


@torch.inference_mode()
def attribution(
    model: Model, tokens: Int[Tensor, "n T"], end: Int[Tensor, " n"], answers: Int[Tensor, "n a 2"], chunk: int
) -> Attribution:
    """Attribute the logit difference at END to the stream's places, its writers and its heads."""

    def run(rows: slice) -> Attribution:
        plain = plain_run(model, tokens[rows], {"end": end[rows]})
        last = at(tokens[rows], end[rows])
        return _attribute(model, plain, last, scaled(model, readout(model, answers[rows]), plain.at["end"].final))

    lens, layers, heads = zip(*(part for _, part in in_chunks(run, len(tokens), chunk)), strict=True)
    joined = ({key: torch.cat([part[key] for part in parts]) for key in parts[0]} for parts in (lens, layers))
    return Attribution(*joined, torch.cat(heads, -1))


def _attribute(model: Model, plain: Plain, last: Int[Tensor, " n"], w: Float[Tensor, "n d"]) -> Attribution:
    run = plain.at["end"]
    lens, layers = {}, {"embed": (model.tokens[last] * w).sum(-1)}
    if model.positions is not None:
        layers["pos_embed"] = (model.positions[plain.positions["end"]] * w).sum(-1)
    for layer, (x, out, after) in enumerate(zip(run.pre[:-1], run.out, run.pre[1:], strict=True)):
        mid = after - out
        lens[float(layer)] = (x * w).sum(-1)
        if not model.spec.parallel:
            lens[layer + 0.5] = (mid * w).sum(-1)
        layers[f"{layer}_attn_out"] = ((mid - x) * w).sum(-1)
        layers[f"{layer}_mlp_out"] = (out * w).sum(-1)
    lens[float(model.spec.n_layers)] = (run.final * w).sum(-1)
    return Attribution(lens, layers, (head_outputs(model, run) * w).sum(-1))


def answer_vectors(model: Model, answers: Int[Tensor, "n a"]) -> Float[Tensor, "n d"]:
    """Return the mean unembedding vectors of some answers, less the mean over the vocabulary, as in a centred unembedding."""
    return model.unembedding[answers].mean(1) - model.unembedding.mean(0)
