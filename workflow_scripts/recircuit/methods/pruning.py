"""Iterative node pruning: take a component out of the circuit whenever the rest still does the task.

Sequence continuation, section 3 (E2): backward and forward passes over all heads and MLPs until nothing changes; a component
goes if the circuit without it keeps more than 100 - T percent of the *full* model's mean logit difference.

What makes it fast, each part exact: a candidate of layer l leaves the layers below untouched, so their residual stream is
kept; within a layer a head is one rank-e update; ablated nodes are constants; the last layer runs at one position only. The
published MLP means depend on the ablated heads, so a second run, over the corrupted prompts, is carried along in the same way.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from recircuit.core.metrics import logit_diff, percent_of
from recircuit.core.model import Model, at, attention, embed, mlp, mlp_input, select_heads
from recircuit.core.nodes import Circuit, Node, head
from recircuit.core.nodes import mlp as mlp_node
from recircuit.methods.ablation import (
    Live,
    Prompts,
    Reference,
    ablated_layer,
    ablated_tail,
    ablated_write,
    add_mlp,
    attend,
    full_logits,
    pick_position,
)
from recircuit.runs.budget import Mean, in_chunks


@dataclass(frozen=True)
class Decision:
    """One evaluation: the score (percent of the full model) without ``node``, and whether it was removed for good."""

    iteration: int
    direction: str  # "backward" or "forward"
    order: int  # 1-based, over the whole run
    node: Node
    score: float
    removed: bool


@dataclass
class _Side:
    """One data set inside the layer at hand: the layer's input, x_mid and z of its live heads, all [N ...]."""

    x: Tensor
    mid: Tensor
    z: dict[int, Tensor]


class Pruner:
    """The state of one pruning run; ``run`` gives the decisions, ``circuit`` what is left.

    ``corrupted`` [M T] tokens: the published means of ablated MLPs, taken over these prompts with the current heads ablated.
    None: the reference's own. ``protected`` nodes are never tried.
    """

    def __init__(
        self,
        model: Model,
        prompts: Prompts,
        reference: Reference,
        threshold: float,
        chunk: int,
        *,
        corrupted: Tensor | None = None,
        protected: frozenset[Node] = frozenset(),
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.model, self.prompts, self.threshold, self.chunk = model, prompts, threshold, chunk
        self.reference, self.corrupted, self.protected, self.log = reference, corrupted, protected, log
        self.circuit = Circuit.full(model.spec.n_layers, model.spec.n_heads)
        self.full = logit_diff(full_logits(model, prompts, chunk))
        self.decisions: list[Decision] = []

    @torch.inference_mode()
    def run(self) -> list[Decision]:
        """Prune until a pass changes nothing."""
        iteration = 1
        while self._backward(iteration) and self._forward(iteration):
            iteration += 1
        return self.decisions

    # ---- passes -----------------------------------------------------------------------------------------------------

    def _backward(self, iteration: int) -> bool:
        before = len(self.circuit.nodes)
        inputs = self._layer_inputs(self.prompts.tokens, mlps_live=False)
        shadow = None if self.corrupted is None else self._layer_inputs(self.corrupted, mlps_live=True)
        for layer in reversed(range(self.model.spec.n_layers)):
            self._layer(iteration, "backward", layer, inputs.pop(), shadow and shadow.pop())
        return len(self.circuit.nodes) < before

    def _forward(self, iteration: int) -> bool:
        before = len(self.circuit.nodes)
        x = self._embedded(self.prompts.tokens)
        shadow = None if self.corrupted is None else self._embedded(self.corrupted)
        for layer in range(self.model.spec.n_layers):
            self._layer(iteration, "forward", layer, x, shadow)
            x = self._next(layer, x, mlps_live=False)
            shadow = None if shadow is None else self._next(layer, shadow, mlps_live=True)
        return len(self.circuit.nodes) < before

    def _layer(self, iteration: int, direction: str, layer: int, x: Tensor, shadow: Tensor | None) -> None:
        """Try the components of one layer, given its input on clean (and on corrupted) prompts."""
        heads = [head(layer, h) for h in range(self.model.spec.n_heads)]
        order = [mlp_node(layer), *heads] if direction == "backward" else [*heads, mlp_node(layer)]
        candidates = [node for node in order if node in self.circuit.nodes and node not in self.protected]
        if not candidates:
            return
        clean = self._side(layer, x, only_end=layer == self.model.spec.n_layers - 1)
        ghost = None if shadow is None else self._side(layer, shadow, only_end=False)
        for node in candidates:
            self._try(iteration, direction, layer, node, clean, ghost)

    def _try(self, iteration: int, direction: str, layer: int, node: Node, clean: _Side, ghost: _Side | None) -> None:
        without = self.circuit.without(node)
        reference = self.reference
        if ghost is not None:
            reference = reference.with_mlps(self._mlp_means(layer, node, without, ghost))
        score = percent_of(logit_diff(self._logits(layer, node, without, clean, reference)), self.full)
        removed = 100 - score < self.threshold
        self.decisions.append(Decision(iteration, direction, len(self.decisions) + 1, node, score, removed))
        if not removed:
            return
        self.circuit, self.reference = without, reference
        self.log(f"iteration {iteration} {direction} {node} removed at {score:.4f} %, {len(without.nodes)} nodes left")
        if node.kind == "attn":
            clean.mid = self._swap(layer, node, clean, slice(None), at_end=clean.mid.dim() == 2)
            if ghost is not None:
                ghost.mid = self._swap(layer, node, ghost, slice(None), at_end=False)

    # ---- evaluations ------------------------------------------------------------------------------------------------

    def _logits(self, layer: int, node: Node, without: Circuit, clean: _Side, reference: Reference) -> Tensor:
        """Return the answers' logits [N 2] of the circuit without ``node``, restarted inside its layer."""
        live, at_end = Live.of(self.model, without), clean.mid.dim() == 2

        def run(rows: slice) -> Tensor:
            part, end, answers = reference.rows(rows), self.prompts.end[rows], self.prompts.answers[rows]
            mid = self._swap(layer, node, clean, rows, at_end=at_end) if node.kind == "attn" else clean.mid[rows]
            x = add_mlp(self.model, layer, clean.x[rows], mid, live, part, end if at_end else None)
            if at_end:  # the last layer: one position is left, and it is position 0
                x, end = x[:, None], torch.zeros_like(end)
            return ablated_tail(self.model, x, layer + 1, live, part, end, answers)

        return torch.cat([part for _, part in in_chunks(run, len(self.prompts), self.chunk)])

    def _swap(self, layer: int, node: Node, side: _Side, rows: slice, *, at_end: bool) -> Tensor:
        """Return x_mid of some prompts with one more head ablated."""
        spec, values = self.model.spec, self.reference.rows(rows).heads[layer][..., node.head, :]
        if at_end:
            values = pick_position(values, self.prompts.end[rows])
        out = self.model.blocks[layer].heads.out.view(spec.n_heads, spec.d_head, spec.d_model)[node.head]
        return side.mid[rows] + (values - side.z[node.head][rows]) @ out

    def _mlp_means(self, layer: int, node: Node, without: Circuit, ghost: _Side) -> Tensor:
        """Return the MLP means [L 1 T d] of the circuit without ``node``.

        Only those at or above its layer can change, and its own layer's not where attention and MLP stand in parallel.
        """
        current, kept = self.reference.mlps[:, :1], set(without.mlps())
        # Taking out an MLP moves no mean, since all MLPs are live where the means are taken: its own is all that is new.
        last = layer + 1 if node.kind == "mlp" else self.model.spec.n_layers
        reach = range(layer + int(node.kind == "attn" and self.model.spec.parallel), last)
        needed = [later for later in reach if later not in kept]
        if not needed:
            return current
        live = replace(Live.of(self.model, without), mlps=frozenset(range(self.model.spec.n_layers)))
        means = {later: Mean() for later in needed}

        def run(rows: slice) -> dict[int, Tensor]:
            part, found = self.reference.rows(rows), {}
            x = ghost.x[rows]
            mid = self._swap(layer, node, ghost, rows, at_end=False) if node.kind == "attn" else ghost.mid[rows]
            for later in range(layer, needed[-1] + 1):
                out = mlp(self.model, later, mlp_input(self.model, x, mid))
                if later in means:
                    found[later] = out
                if later < needed[-1]:
                    x = mid + out
                    mid = attend(self.model, later + 1, x, live, part)
            return found

        for _, found in in_chunks(run, len(self.corrupted), self.chunk):
            for later, out in found.items():
                means[later].add(out)
        updated = current.clone()
        for later, mean in means.items():
            updated[later, 0] = mean.value(self.model.dtype)
        return updated

    # ---- residual streams -------------------------------------------------------------------------------------------

    def _embedded(self, tokens: Tensor) -> Tensor:
        return torch.cat([x for _, x in in_chunks(lambda rows: embed(self.model, tokens[rows]), len(tokens), self.chunk)])

    def _next(self, layer: int, x: Tensor, *, mlps_live: bool) -> Tensor:
        """Return the next layer's input [N T d] under the current circuit (all MLPs live where the means are taken)."""
        if layer == self.model.spec.n_layers - 1:
            return x
        live = Live.of(self.model, self.circuit)
        live = replace(live, mlps=frozenset(range(self.model.spec.n_layers))) if mlps_live else live

        def run(rows: slice) -> Tensor:
            return ablated_layer(self.model, layer, x[rows], live, self.reference.rows(rows))

        return torch.cat([part for _, part in in_chunks(run, len(x), self.chunk)])

    def _layer_inputs(self, tokens: Tensor, *, mlps_live: bool) -> list[Tensor]:
        """Return the input [N T d] of every layer under the current circuit."""
        inputs = [self._embedded(tokens)]
        for layer in range(self.model.spec.n_layers - 1):
            inputs.append(self._next(layer, inputs[-1], mlps_live=mlps_live))
        return inputs

    def _side(self, layer: int, x: Float[Tensor, "N T d"], *, only_end: bool) -> _Side:
        """Run the attention of a layer once; keep x_mid and z of its live heads (at ``end`` alone in the last layer)."""
        live = Live.of(self.model, self.circuit).heads[layer]
        weights = select_heads(self.model, layer, live)

        def run(rows: slice) -> tuple[Tensor, Tensor]:
            end = self.prompts.end[rows] if only_end else None
            constant = ablated_write(self.model, layer, self.reference.rows(rows).heads[layer], live)
            if only_end:
                constant = pick_position(constant, end) if constant.shape[1] > 1 else constant[:, 0]
            start = at(x[rows], end) if only_end else x[rows]
            if not live:
                return start + constant, start.new_zeros(*start.shape[:-1], 0, self.model.spec.d_head)
            z = attention(self.model, layer, x[rows], weights, end=end)
            z = z[:, 0] if only_end else z
            return start + z.flatten(-2) @ weights.out + constant, z

        mids, zs = zip(*(part for _, part in in_chunks(run, len(x), self.chunk)), strict=True)
        z = torch.cat(zs)
        return _Side(x, torch.cat(mids), {h: z[..., i, :] for i, h in enumerate(live)})
