"""What single heads write: how alike they are, how much of it lies on the direction, what they read (spec 3.5, item 9).

Heads are scaled as if they went to the final norm alone: what a head writes at a position, less its mean over the residual
width, divided by that position's final norm. All of it is made of class means: [L P H d] for the named positions.
"""

from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from recircuit.core.model import Model, at, embed, select_heads, unembed
from recircuit.core.nodes import head as head_node
from recircuit.experiments.sentiment.axes import ALIGNMENTS, FIRST, Axes
from recircuit.experiments.sentiment.roles import heads_of, places_of
from recircuit.experiments.sentiment.setting import Setting, Toy
from recircuit.methods.direction_hooks import centred_width, norm_scale
from recircuit.methods.directions import unit
from recircuit.runs.budget import in_chunks
from recircuit.runs.forward import layer_step, run_with_cache

WORDS = ("ADJ", "VRB")
TINY = 1e-6


class ClassMeans(NamedTuple):
    """Mean outputs of all heads at named positions over positive prompts and over negative ones, each [L P H d], float64."""

    positions: tuple[str, ...]
    positive: Tensor
    negative: Tensor

    @property
    def flip(self) -> Float[Tensor, "L P H d"]:
        """What changes from negative to positive prompts."""
        return self.positive - self.negative


@torch.inference_mode()
def class_means(setting: Setting, toy: Toy) -> ClassMeans:
    """Return the mean outputs of all heads at every named position by class."""
    model, names = setting.model, tuple(sorted(toy.positions, key=lambda name: (toy.place(name), name)))
    places = torch.tensor([toy.place(name) for name in names], device=model.device)

    def run(rows: slice) -> Tensor:
        cache, chosen = run_with_cache(model, toy.tokens[rows]), toy.positive[rows]
        scale, layers = norm_scale(model, cache.x[-1][:, places])[:, :, None], []
        for block, z in zip(model.blocks, cache.z, strict=True):
            out = block.heads.out.view(model.spec.n_heads, model.spec.d_head, model.spec.d_model)
            written = centred_width(model, torch.einsum("nphe,hed->nphd", z[:, places], out)) / scale
            layers.append(torch.stack([written[one].double().sum(0) for one in (chosen, ~chosen)]))
        return torch.stack(layers, 1)  # [2 L P H d]

    total = sum(part for _, part in in_chunks(run, len(toy), setting.chunk))
    return ClassMeans(names, *(sums / n for sums, n in zip(total, (toy.positive.sum(), (~toy.positive).sum()), strict=True)))


# ---- how alike ------------------------------------------------------------------------------------------------------


def head_cosines(means: ClassMeans, circuit: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """Return ``se_head_cosines``: cosines between what the circuit's (head, position) cells write, each pair once.

    Positive prompts less the mean of both classes, where the authors took prompts with neutral adjectives off: this is half the
    flip, and its cosines are those of negative prompts too.
    """
    cells = [cell for cell in places_of(circuit) if cell[2] in means.positions]
    names = [f"{head_node(layer, head)}@{name}" for layer, head, name in cells]
    vectors = unit(torch.stack([means.flip[layer, means.positions.index(name), head] for layer, head, name in cells]))
    found = vectors @ vectors.T
    rows = [
        {"dataset": dataset, "a": names[i], "b": names[j], "cosine": float(found[i, j])}
        for i in range(len(cells))
        for j in range(i + 1)
    ]
    return pd.DataFrame(rows)


# ---- how much lies on the direction ---------------------------------------------------------------------------------


def localised(means: ClassMeans, axes: Axes, dataset: str, n: int) -> pd.DataFrame:
    """Return ``se_localised``: every head at every named position against every direction.

    ``dot``: the output less its mean over all prompts, times the direction for positive prompts and minus it for negative ones,
    averaged. ``flip`` is the length of what changes with the class, ``flip_share`` its cosine with the direction.
    """
    flip, found = means.flip, []
    size = flip.norm(dim=-1)  # [L P H]
    # Before the first word that differs the outputs are the same up to rounding, which has no direction.
    changes = size > TINY * (means.positive.norm(dim=-1) + means.negative.norm(dim=-1))
    layer, place, head = (part.flatten().tolist() for part in torch.meshgrid(*map(torch.arange, size.shape), indexing="ij"))
    where = pd.DataFrame({"layer": layer, "head": head, "position": [means.positions[p] for p in place]})
    for method in axes.vectors:
        for alignment in ALIGNMENTS:
            along = torch.einsum("lphd,ld->lph", flip, axes.stack(method, alignment).double())
            share = torch.where(changes, along / size, 0.0)
            # The classes are of one size: the mean over prompts, each with its class's sign, is half of the change.
            values = {"dot": along / 2, "flip": size, "flip_share": share}
            columns = {name: value.flatten().cpu().numpy() for name, value in values.items()}
            found.append(where.assign(direction=method, alignment=alignment, **columns))
    return pd.concat(found, ignore_index=True).assign(dataset=dataset, n=n)


# ---- what is read ---------------------------------------------------------------------------------------------------


def gradients(setting: Setting, toy: Toy, circuit: pd.DataFrame, axes: Axes, dataset: str) -> pd.DataFrame:
    """Return ``se_gradients``: cosines of the directions with gradients that ought to lie along them (spec 3.5, item 9).

    ``log_prob``: of the mean log-probability of the negative answers, by the stream entering layer 1 at the words; negative, if
    the direction points to what makes these answers unlikely. ``ov``: of the mean logit of the negative adjectives through one
    head of the circuit alone, by the stream that it reads; ``ov_answers``: of the negative answers. ``chance`` is the spread of
    a random vector's cosines.
    """
    found = [("log_prob", name, FIRST, vector) for name, vector in answer_gradients(setting, toy).items()]
    words = {"ov": toy.tokens[~toy.positive][:, toy.place("ADJ")].unique(), "ov_answers": negative_answers(toy).unique()}
    for kind, tokens in words.items():
        for layer, head in heads_of(circuit):
            found.append((kind, str(head_node(layer, head)), layer, written_towards(setting.model, layer, head, tokens)))
    columns = ["kind", "reader", "layer", "direction", "cosine"]
    rows = [
        (kind, reader, layer, method, float(unit(vector) @ own[layer].double()))
        for kind, reader, layer, vector in found
        for method, own in axes.vectors.items()
    ]
    return pd.DataFrame(rows, columns=columns).assign(dataset=dataset, chance=setting.model.spec.d_model**-0.5, n=len(toy))


def negative_answers(toy: Toy) -> Tensor:
    """Return the negative answers of every prompt, [n a]."""
    return torch.where(toy.positive[:, None], toy.answers[..., 1], toy.answers[..., 0])


def answer_gradients(setting: Setting, toy: Toy) -> dict[str, Float[Tensor, " d"]]:
    """Return the gradients of the mean log-probability of negative answers by the stream entering layer 1 at the words."""
    model, negative = setting.model, negative_answers(toy)

    def run(rows: slice) -> Tensor:
        with torch.no_grad():
            x = entered = layer_step(model, 0, embed(model, toy.tokens[rows]))[0]
        entered.requires_grad_()
        for layer in range(FIRST, model.spec.n_layers):
            x = layer_step(model, layer, x)[0]
        chances = unembed(model, at(x, toy.positions["END"][rows])).log_softmax(-1)
        (slope,) = torch.autograd.grad(chances.gather(1, negative[rows]).mean(1).sum(), entered)
        return torch.stack([slope[:, toy.place(name)].double().sum(0) for name in WORDS])

    total = sum(part for _, part in in_chunks(run, len(toy), setting.chunk)) / len(toy)
    return dict(zip((*WORDS, "+".join(WORDS)), (*total, total.mean(0)), strict=True))


def written_towards(model: Model, layer: int, head: int, tokens: Tensor) -> Float[Tensor, " d"]:
    """Return the vector whose product with a head's normed input is the mean logit of some tokens, through this head alone.

    Weights as TransformerLens folds them: norms' scales inside, the mean over the width and over the vocabulary taken off.
    """
    weights = select_heads(model, layer, [head])
    wanted = model.unembedding[tokens].double().mean(0) - model.unembedding.double().mean(0)
    wanted = centred_width(model, wanted * model.final_norm.weight.double())
    read = weights.v.double() @ (weights.out.double() @ wanted)
    return centred_width(model, read * model.blocks[layer].norm1.weight.double())
