"""What edges are worth: estimated for all of them at once by gradients, and computed exactly for any list of them.

Patching an edge s -> r makes the receiver r alone read x + (s on corrupted prompts - s on clean ones) instead of x; all that
follows is recomputed. Edge attribution patching (EAP; Syed, Rager and Conmy 2023) estimates the change of the metric by the
product of that difference with the gradient of the metric by what r reads, before LayerNorm; EAP-IG (Hanna, Pezzelle and
Belinkov 2024, "Have faith in faithfulness") takes the gradient's mean over inputs interpolated between the corrupted and the
clean embedding (k / m of the way, k = 1..m). The metric is the mean logit difference; negative means that the edge helps.

All edges cost two forward passes, m backward passes and one matrix product per layer: what every sender writes differently,
[S, n T d], times the gradients by what every receiver reads, [n T d, R].
"""

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from recircuit.core.metrics import logit_diff
from recircuit.core.model import Norm, at, attend, mlp, mlp_input, rotate, unembed
from recircuit.core.nodes import Circuit, Edge, Node
from recircuit.methods.ablation import Prompts
from recircuit.methods.edge_base import (
    LOGITS,
    Base,
    Run,
    all_edges,
    end_of,
    head_reads,
    layer_receivers,
    mlp_writes,
    normed,
    part_of,
    project_live,
    run_chunk,
    run_pair,
    seen,
    senders,
    written,
)
from recircuit.runs.budget import BLOCK, in_chunks

METHODS = ("eap", "eap_ig")


# ---- estimates ------------------------------------------------------------------------------------------------------


def estimate(
    base: Base, circuit: Circuit, prompts: Prompts, corrupted: Tensor, chunk: int, *, steps: int = 5
) -> tuple[list[Edge], dict[str, Float[Tensor, " E"]]]:
    """Return every edge of a circuit and the estimated change of the mean logit difference when it alone is patched.

    The estimates are called ``eap`` and ``eap_ig``; the last of the ``steps`` of EAP-IG, at the clean input, is EAP (with one
    step they are the same). ``base`` is the circuit's base, ``corrupted`` [N T] the prompts' corrupted twins. Scores are
    float64 sums over blocks of BLOCK prompts, the same whatever the chunk.
    """
    edges = all_edges(circuit, parallel=base.model.spec.parallel)
    totals = {method: torch.zeros(len(edges), dtype=torch.float64, device=base.model.device) for method in METHODS}
    work = partial(_estimate_chunk, base, senders(circuit), prompts, corrupted, steps)
    for _, blocks in in_chunks(work, len(prompts), run_chunk(chunk)):
        for block in blocks:
            for method, scores in zip(METHODS, block, strict=True):
                totals[method] += scores.double()
    return edges, {method: total / len(prompts) for method, total in totals.items()}


def _estimate_chunk(base: Base, nodes: list[Node], prompts: Prompts, corrupted: Tensor, steps: int, rows: slice):
    """Return, for each block of prompts, the scores of all edges by EAP and by EAP-IG, summed over its prompts."""
    base = base.rows(rows)
    with torch.inference_mode():
        clean, other = run_pair(base, prompts, corrupted, rows)
    gradients = []
    for k in range(1, steps + 1):
        with torch.inference_mode(False), torch.enable_grad():
            start = (other.x[0] + (k / steps) * (clean.x[0] - other.x[0])).clone().requires_grad_()
            gradients.append(_gradients(base, start, clean.end, clean.answers))
    with torch.inference_mode():
        blocks = [slice(i, min(i + BLOCK, len(clean.end))) for i in range(0, len(clean.end), BLOCK)]
        last = [_block_scores(base, nodes, clean, other, gradients[-1:], block) for block in blocks]
        mean = last if steps == 1 else [_block_scores(base, nodes, clean, other, gradients, block) for block in blocks]
        return list(zip(last, mean, strict=True))


def _gradients(base: Base, x: Tensor, end: Tensor, answers: Tensor) -> list[Tensor]:
    """Return the stream entering each layer (a list), then gradients: by q, k, v and by what the MLP reads, layer by layer, and
    by what the logits read. q, k, v are rotated, [n h T e]; T = 1 of what is needed at ``end`` alone: the top layer's queries
    and MLP, and everything above.
    """
    by, entered = [], []
    for layer in range(base.last + 1):
        entered.append(x.detach())
        at_end = layer >= base.top
        whole = x
        if layer == max(base.top, 0) and at_end:  # from here on at ``end``
            x = at(x, end)[:, None]
        q, k, v = project_live(base, layer, whole if layer <= base.top else x, end if layer == base.top else None)
        z = attend(q, k, v, seen(k, end) if layer == base.top else None)
        constant, ablated = (
            end_of(part[layer], end)[:, None] if at_end else part[layer] for part in (base.constants, base.mlps)
        )
        mid = x + z.flatten(2) @ base.heads[layer].out + constant
        reads = mlp_input(base.model, x, mid).view_as(mid)  # a branch of its own: the gradient by it is that of the MLP alone
        x = mid + (mlp(base.model, layer, reads) if layer in base.live.mlps else ablated)
        by += [q, k, v, reads]
    x = x.view_as(x)
    metric = logit_diff(unembed(base.model, x[:, 0], answers)).sum()
    found = torch.autograd.grad(metric, [*by, x], allow_unused=True)
    return [entered, *found]


def _block_scores(base: Base, nodes: list[Node], clean: Run, other: Run, gradients: list, block: slice) -> Float[Tensor, " E"]:
    """Return the scores of all edges, summed over one block of prompts, in the order of ``all_edges``."""
    clean, other = part_of(clean, block), part_of(other, block)
    change = torch.stack([written(base, clean, other, node) for node in nodes])  # [S n T d]
    change_end = change[:, torch.arange(len(clean.end), device=clean.end.device), clean.end]  # [S n d]
    found = []

    def score(towards: Tensor, before: int) -> Tensor:  # [R n T d] or [R n d] -> [S R]
        side = change_end if towards.dim() == 3 else change
        return side[:before].flatten(1) @ towards.flatten(1).T

    before = 1
    for layer in range(base.last + 1):
        heads = len(base.live.heads[layer])
        if heads:
            towards = [_head_gradients(base, gradients, layer, i, clean.end, block) for i in range(3)]
            found.append(torch.stack([score(part, before) for part in towards], -1).flatten(1))  # [S h 3]: as receivers are
        inside = before + (0 if base.model.spec.parallel else heads)
        if layer in base.live.mlps:
            towards = sum(step[4 * layer + 4][block] for step in gradients) / len(gradients)
            found.append(score(towards[:, 0][None] if layer >= base.top else towards[None], inside))
        before += heads + (layer in base.live.mlps)
    towards = sum(step[-1][block] for step in gradients) / len(gradients)
    return torch.cat([part.T.flatten() for part in [*found, score(towards[:, 0][None], before)]])


def _head_gradients(base: Base, gradients: list, layer: int, i: int, end: Tensor, block: slice) -> Tensor:
    """Return the gradients by what the heads of a layer read for queries, keys or values (i = 0, 1, 2), [h n T d] or [h n d].

    For one head that is W g, back through LayerNorm: with x' the normalised stream and sigma its scale, (c - x' mean(x' c)) /
    sigma, where c is W g, scaled and centred; both are done to W once. Written out because autograd would do it head by head.
    """
    spec, norm = base.model.spec, base.model.blocks[layer].norm1
    w = base.heads[layer][i].unflatten(-1, (-1, spec.d_head)) * norm.weight[:, None, None]  # [d h e]
    w = w if norm.bias is None else w - w.mean(0)
    total, at_end = 0, i == 0 and layer == base.top
    for step in gradients:
        x, g = step[0][layer][block], step[4 * layer + 1 + i][block]  # [n T d], [n h T e]
        positions = torch.arange(x.shape[1], device=x.device)[None]
        if at_end:
            x, positions = at(x, end)[:, None], end[:, None]
        g = g if i == 2 else rotate(spec, g, -positions)  # a rotation's gradient is rotated back
        unit, scale = _unit(norm, x, spec.eps)  # [n T d], [n T 1]
        g = (g.transpose(1, 2) / scale[..., None]).permute(2, 0, 1, 3)  # [h n T e]
        along = (g * (unit.flatten(0, 1) @ w.flatten(1)).view(*unit.shape[:2], *w.shape[1:]).permute(2, 0, 1, 3)).sum(-1)
        towards = (g.flatten(1, 2) @ w.permute(1, 2, 0)).view(*g.shape[:3], -1)
        total = total + towards.addcmul_(unit[None], along[..., None], value=-1 / spec.d_model)
    return (total[:, :, 0] if at_end else total) / len(gradients)


def _unit(norm: Norm, x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return the normalised stream before LayerNorm's weight, and what it was divided by."""
    x = x if norm.bias is None else x - x.mean(-1, keepdim=True)
    scale = (x.square().mean(-1, keepdim=True) + eps).sqrt()
    return x / scale, scale


# ---- exact effects --------------------------------------------------------------------------------------------------


def exact(
    base: Base, prompts: Prompts, corrupted: Tensor, edges: Sequence[Edge], chunk: int
) -> tuple[Float[Tensor, "N 2"], Float[Tensor, "E N 2"]]:
    """Return the answers' logits of the base, and with each of ``edges`` patched alone; what comes before is shared."""
    by_layer: dict[tuple[int, Node], list[int]] = {}
    for i, edge in enumerate(edges):
        layer = base.last + 1 if edge.dst == LOGITS else edge.dst.layer
        by_layer.setdefault((layer, edge.src), []).append(i)
    work = partial(_exact_chunk, base, prompts, corrupted, edges, by_layer)
    parts = [part for _, part in in_chunks(work, len(prompts), run_chunk(chunk))]
    plain, patched = zip(*parts, strict=True)
    return torch.cat(plain), torch.cat(patched, 1)


@torch.inference_mode()
def _exact_chunk(base: Base, prompts: Prompts, corrupted: Tensor, edges: Sequence[Edge], by_layer: dict, rows: slice):
    base = base.rows(rows)
    clean, other = run_pair(base, prompts, corrupted, rows)
    found = torch.empty(len(edges), len(clean.end), 2, dtype=clean.x[0].dtype, device=clean.x[0].device)
    changes: dict[Node, Tensor] = {}
    for (layer, sender), chosen in by_layer.items():
        if sender not in changes:
            changes[sender] = written(base, clean, other, sender)
        wanted = {edges[i].dst: i for i in chosen}
        for receiver, logits in _reads(base, clean, layer, changes[sender], set(wanted)):
            found[wanted[receiver]] = logits
    return unembed(base.model, at(clean.x[-1], clean.end), clean.answers), found


def _reads(base: Base, clean: Run, layer: int, change: Tensor, wanted: set[Node]) -> Iterator[tuple[Node, Tensor]]:
    """Yield each wanted receiver of a layer with the answers' logits when it alone reads ``change`` more."""
    if layer > base.last:
        yield LOGITS, unembed(base.model, at(clean.x[-1] + change, clean.end), clean.answers)
        return
    h = None
    for receiver, index in layer_receivers(base, layer):
        if receiver in wanted:
            h = normed(base, layer, clean.x[layer] + change) if h is None else h
            yield receiver, head_reads(base, clean, layer, index, receiver.input, h)
    mlps = [node for node in wanted if node.kind == "mlp"]
    if mlps:
        reads = mlp_input(base.model, clean.x[layer], clean.mid[layer]) + change
        reads = at(reads, clean.end) if layer >= base.top else reads
        yield mlps[0], mlp_writes(base, clean, layer, mlp(base.model, layer, reads))
