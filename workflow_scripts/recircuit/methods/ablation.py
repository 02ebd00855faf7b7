"""What an ablated node is replaced with, and forward passes of a model of which only a circuit is live.

An ablated head or MLP is a constant, so its matrices are never multiplied: the forward of a small circuit costs as much as
the circuit. The reference is always named: zero (on raw or folded weights), mean (over the data set, by position, or by
position within a template) or resample (another prompt's own activation).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recircuit.core.model import Block, Model, at, attention, embed, mlp, mlp_input, select_heads, unembed
from recircuit.core.nodes import Circuit
from recircuit.runs.budget import Mean, in_chunks
from recircuit.runs.forward import finish, layer_step

MeanOver = Literal["position", "dataset", "template"]


@dataclass(frozen=True)
class Prompts:
    """Tokenised prompts of one length: ``tokens`` [N T], the position ``end`` [N] to read, and ``answers`` [N 2]."""

    tokens: Tensor
    end: Tensor
    answers: Tensor

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True)
class Reference:
    """Values for ablated nodes: ``heads`` [L G T H e] (z, before W_O) and ``mlps`` [L G T d] for G groups of prompts.

    ``group`` [N] names the group of each prompt; None means that one value serves all (G = 1).
    """

    heads: Tensor
    mlps: Tensor
    group: Tensor | None = None

    def rows(self, rows: slice) -> "Reference":
        """Return the values for some prompts: [L n T ...], or [L 1 T ...] where one value serves all."""
        if self.group is None:
            return self
        chosen = self.group[rows]
        return Reference(self.heads[:, chosen], self.mlps[:, chosen], torch.arange(len(chosen), device=chosen.device))

    def with_mlps(self, mlps: Tensor) -> "Reference":
        """Return the same heads with other values [L 1 T d] for the MLPs."""
        return replace(self, mlps=mlps if self.group is None else mlps.expand(-1, self.mlps.shape[1], -1, -1))


@dataclass(frozen=True)
class Live:
    """Which heads (per layer) and MLPs of a model are live; the rest is ablated."""

    heads: tuple[tuple[int, ...], ...]
    mlps: frozenset[int]

    @classmethod
    def of(cls, model: Model, circuit: Circuit) -> "Live":
        """Read a circuit; ValueError when it names a node that the model does not have."""
        beyond = circuit.nodes - Circuit.full(model.spec.n_layers, model.spec.n_heads).nodes
        if beyond:
            raise ValueError(f"the model has no node {', '.join(sorted(map(str, beyond)))}")
        layers = range(model.spec.n_layers)
        return cls(tuple(tuple(h for _, h in circuit.heads(layer)) for layer in layers), frozenset(circuit.mlps()))


# ---- references -----------------------------------------------------------------------------------------------------


def zero_reference(model: Model, length: int, *, folded: bool) -> Reference:
    """Zero ablation, of the raw weights or of weights with LayerNorm and value biases folded as TransformerLens does.

    Folding moves what the value biases (and LayerNorm's shift through W_V) add into b_O, where zeroing z cannot remove it;
    attention weights sum to one, so that amount is a constant: zeroing the folded z is setting the raw z to it. Where a model
    has neither bias nor shift the two are the same.
    """
    spec = model.spec
    heads = torch.zeros(spec.n_layers, 1, length, spec.n_heads, spec.d_head, dtype=model.dtype, device=model.device)
    if folded:
        for layer, block in enumerate(model.blocks):
            heads[layer] = _value_constant(model, block)
    mlps = torch.zeros(spec.n_layers, 1, length, spec.d_model, dtype=model.dtype, device=model.device)
    return Reference(heads, mlps)


def _value_constant(model: Model, block: Block) -> Float[Tensor, "h e"]:
    shared = model.spec.n_kv_heads or model.spec.n_heads
    constant = torch.zeros(shared * model.spec.d_head, dtype=model.dtype, device=model.device)
    if block.norm1.bias is not None:
        constant = block.norm1.bias @ block.heads.v
    if block.heads.v_bias is not None:
        constant = constant + block.heads.v_bias
    return constant.view(shared, -1).repeat_interleave(model.spec.n_heads // shared, 0)


def mean_reference(
    model: Model, tokens: Int[Tensor, "N T"], over: MeanOver, chunk: int, templates: Int[Tensor, " N"] | None = None
) -> Reference:
    """Mean activations of the unablated model over prompts, ``over`` each position, all positions, or each template.

    The per-position mean is that of sequence continuation, section 3 (E1). ``templates`` numbers each prompt's template and
    serves as the group of the prompts that are ablated.
    """
    if over != "template":
        return _mean(model, tokens, chunk, over)
    assert templates is not None, "means by template need the template of each prompt"
    parts = [_mean(model, tokens[templates == t], chunk, "position") for t in range(int(templates.max()) + 1)]
    return Reference(torch.cat([p.heads for p in parts], 1), torch.cat([p.mlps for p in parts], 1), templates)


@torch.inference_mode()
def _mean(model: Model, tokens: Tensor, chunk: int, over: MeanOver) -> Reference:
    heads, mlps = ([Mean() for _ in model.blocks] for _ in range(2))

    def run(rows: slice) -> list[tuple[Tensor, Tensor]]:
        return list(outputs(model, tokens[rows]))

    for _, layers in in_chunks(run, len(tokens), chunk):
        for layer, (z, out) in enumerate(layers):
            heads[layer].add(z)
            mlps[layer].add(out)
    reference = Reference(*(torch.stack([m.value(model.dtype) for m in means])[:, None] for means in (heads, mlps)))
    if over == "position":
        return reference
    everywhere = [part.mean(2, keepdim=True).expand_as(part).contiguous() for part in (reference.heads, reference.mlps)]
    return Reference(*everywhere)


@torch.inference_mode()
def resample_reference(model: Model, tokens: Int[Tensor, "N T"], chunk: int) -> Reference:
    """Each prompt's ablated nodes take the activation of the prompt in the same row of ``tokens``.

    Keeps all activations: 4 (H e + d) L T bytes per prompt in fp32.
    """
    parts = [layers for _, layers in in_chunks(lambda rows: list(outputs(model, tokens[rows])), len(tokens), chunk)]
    heads, mlps = (
        torch.stack([torch.cat([part[layer][which] for part in parts]) for layer in range(model.spec.n_layers)])
        for which in (0, 1)
    )
    return Reference(heads, mlps, torch.arange(len(tokens), device=model.device))


def outputs(model: Model, tokens: Int[Tensor, "n T"]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield z [n T H e] and the MLP's output [n T d] of each layer of the unablated model."""
    x = embed(model, tokens)
    for layer in range(model.spec.n_layers):
        x, _, z, out = layer_step(model, layer, x)
        yield z, out


# ---- forward passes of a circuit ------------------------------------------------------------------------------------


def pick_position(values: Float[Tensor, "g T *r"], end: Int[Tensor, " n"]) -> Float[Tensor, " m *r"]:
    """Return reference values at each prompt's ``end``: [1 ...] when one value serves all prompts, else [n ...]."""
    if values.shape[0] == len(end) and len(end) > 1:
        return at(values, end)
    if bool((end == end[0]).all()):
        return values[:, int(end[0])]
    return values[0, end]


def ablated_write(model: Model, layer: int, z: Float[Tensor, "g T H e"], live: tuple[int, ...]) -> Float[Tensor, "g T d"]:
    """Return what the ablated heads of a layer write together, plus b_O: a constant of the circuit."""
    spec, block = model.spec, model.blocks[layer]
    gone = [h for h in range(spec.n_heads) if h not in live]
    out = block.heads.out.view(spec.n_heads, spec.d_head, spec.d_model)
    if not gone:
        return block.out_bias.expand(1, 1, -1)
    return torch.einsum("gthe,hed->gtd", z[:, :, gone], out[gone]) + block.out_bias


def attend(model: Model, layer: int, x: Tensor, live: Live, reference: Reference, end: Tensor | None = None) -> Tensor:
    """Return x_mid [n T d] of a layer whose live heads attend and whose others are constant; [n d] at ``end`` if given."""
    constant = ablated_write(model, layer, reference.heads[layer], live.heads[layer])
    if end is not None and constant.shape[1] > 1:
        constant = pick_position(constant, end)
    elif end is not None:
        constant = constant[:, 0]
    start = x if end is None else at(x, end)
    if not live.heads[layer]:
        return start + constant
    weights = select_heads(model, layer, live.heads[layer])
    z = attention(model, layer, x, weights, end=end)
    write = z.flatten(2) @ weights.out
    return start + (write if end is None else write[:, 0]) + constant


def add_mlp(
    model: Model, layer: int, x: Tensor, mid: Tensor, live: Live, reference: Reference, end: Tensor | None = None
) -> Tensor:
    """Return the next layer's input: ``mid`` plus the MLP's output, or its reference where the MLP is ablated.

    ``x`` [n T d] entered the layer; ``mid`` is [n T d], or [n d] at ``end``.
    """
    if layer in live.mlps:
        return mid + mlp(model, layer, mlp_input(model, x if end is None else at(x, end), mid))
    constant = reference.mlps[layer]
    return mid + (constant if end is None else pick_position(constant, end))


def ablated_layer(model: Model, layer: int, x: Tensor, live: Live, reference: Reference) -> Tensor:
    """Run one layer of a circuit at all positions."""
    return add_mlp(model, layer, x, attend(model, layer, x, live, reference), live, reference)


def ablated_tail(
    model: Model, x: Float[Tensor, "n T d"], layer: int, live: Live, reference: Reference, end: Tensor, answers: Tensor
) -> Float[Tensor, "n 2"]:
    """Run a circuit from the input of ``layer`` to the answers' logits; the last layer only at ``end``."""
    last = model.spec.n_layers - 1
    for later in range(layer, last):
        x = ablated_layer(model, later, x, live, reference)
    if layer > last:
        return unembed(model, at(x, end), answers)
    mid = attend(model, last, x, live, reference, end)
    return unembed(model, add_mlp(model, last, x, mid, live, reference, end), answers)


@torch.inference_mode()
def full_logits(model: Model, prompts: Prompts, chunk: int) -> Float[Tensor, "N 2"]:
    """Return the answers' logits of the unablated model."""

    def run(rows: slice) -> Tensor:
        return finish(model, embed(model, prompts.tokens[rows]), 0, prompts.end[rows], prompts.answers[rows])

    return torch.cat([part for _, part in in_chunks(run, len(prompts), chunk)])


@torch.inference_mode()
def circuit_logits(
    model: Model, prompts: Prompts, circuit: Circuit, reference: Reference, chunk: int, corrupted: Tensor | None = None
) -> Float[Tensor, "N 2"]:
    """Return the answers' logits of a circuit. With ``corrupted`` tokens, ablated MLPs take the published means.

    Those are means of the MLPs' outputs over the corrupted prompts *in the model whose heads outside the circuit are
    ablated* and whose MLPs are all live (sequence continuation, section 3, E1: the authors cache them with the head hooks
    installed); without ``corrupted`` the reference's own.
    """
    live = Live.of(model, circuit)
    if corrupted is not None:
        reference = reference.with_mlps(ablated_mlp_means(model, corrupted, live, reference, chunk))

    def run(rows: slice) -> Tensor:
        x, part = embed(model, prompts.tokens[rows]), reference.rows(rows)
        return ablated_tail(model, x, 0, live, part, prompts.end[rows], prompts.answers[rows])

    return torch.cat([part for _, part in in_chunks(run, len(prompts), chunk)])


def ablated_mlp_means(model: Model, corrupted: Tensor, live: Live, reference: Reference, chunk: int) -> Tensor:
    """Return [L 1 T d]: means of the outputs of the MLPs outside the circuit, in the model with its heads ablated."""
    needed = [layer for layer in range(model.spec.n_layers) if layer not in live.mlps]
    means, all_mlps = {layer: Mean() for layer in needed}, replace(live, mlps=frozenset(range(model.spec.n_layers)))

    def run(rows: slice) -> dict[int, Tensor]:
        x, part, found = embed(model, corrupted[rows]), reference.rows(rows), {}
        for layer in range(max(needed, default=-1) + 1):
            mid = attend(model, layer, x, all_mlps, part)
            out = mlp(model, layer, mlp_input(model, x, mid))
            x = mid + out
            if layer in means:
                found[layer] = out
        return found

    if needed:
        for _, found in in_chunks(run, len(corrupted), chunk):
            for layer, out in found.items():
                means[layer].add(out)
    nothing = torch.zeros(corrupted.shape[1], model.spec.d_model, dtype=model.dtype, device=model.device)
    layers = range(model.spec.n_layers)
    return torch.stack([means[layer].value(model.dtype) if layer in means else nothing for layer in layers])[:, None]
