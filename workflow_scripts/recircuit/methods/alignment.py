"""Boundless distributed alignment search: a rotation and a boundary, so that exchanging the first coordinates of the rotated
stream between two inputs exchanges one variable (Wu et al. 2023; hyper-parameters of spec 3.7).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

Logits = Callable[[Tensor], Tensor]  # from the stream at the site [n d] to the logits [n V]


@dataclass(frozen=True)
class Recipe:
    """How an alignment is trained; rates warm up over a tenth of the steps and then fall to zero."""

    epochs: int = 250
    batch: int = 128
    rotation_rate: float = 1e-2
    boundary_rate: float = 5e-3
    hottest: float = 50.0
    coldest: float = 0.1
    evaluations: int = 10


class Pairs(NamedTuple):
    """Streams of base and source inputs [n d], and the answers that an exchange should give [n]."""

    base: Tensor
    source: Tensor
    answers: Tensor


class Report(NamedTuple):
    """What an evaluation saw: interchange-intervention accuracy, boundary, temperature and the last batch's cross-entropy."""

    step: int
    iia: float
    boundary: float
    second_boundary: float
    temperature: float
    cross_entropy: float


def rotation_of(base: Float[Tensor, "d d"], free: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    """Return base exp(A - A^T), A the lower triangle of the parameter: orthogonal, and the base at zero."""
    lower = free.tril(-1)
    return base @ torch.matrix_exp(lower - lower.T)


def gates(boundary: Float[Tensor, "2"], width: int, temperature: float) -> Float[Tensor, " d"]:
    """Return how much of each rotated coordinate is exchanged: those below the boundary, softly at the temperature.

    The second boundary has no effect (spec 3.7), and coordinate 0 is exchanged by half however cold it is.
    """
    i = torch.arange(width, device=boundary.device, dtype=boundary.dtype)
    upper = boundary[0].clamp(1e-3, 1.0) * width
    return torch.sigmoid(i / temperature) * torch.sigmoid((upper - i) / temperature)


def exchange(base: Tensor, source: Tensor, rotation: Tensor, gate: Tensor) -> Float[Tensor, "n d"]:
    """Return the base's streams with the source's rotated coordinates where the gate is open."""
    rotated = base @ rotation
    return (rotated + gate * (source @ rotation - rotated)) @ rotation.T


def regulariser(boundary: Float[Tensor, "2"], rotation: Float[Tensor, "d d"]) -> Float[Tensor, ""]:
    """Return what the authors add to the cross-entropy: both boundaries, row and column sums, and mean(Q (1 - Q))."""
    rows, columns = rotation.sum(1), rotation.sum(0)
    sums = 0.5 * ((rows - 1).abs().mean() + (columns - 1).abs().mean())
    return boundary.sum() + sums + (rotation * (1 - rotation)).mean()


def temperatures(recipe: Recipe, steps: int) -> Float[Tensor, " s"]:
    """Return the temperature of each step: evenly falling in bfloat16, one step late (spec 3.7)."""
    falling = torch.linspace(recipe.hottest, recipe.coldest, steps).bfloat16().float()
    return torch.cat([falling[:1], falling[:-1]])


def align(logits: Logits, train: Pairs, test: Pairs, recipe: Recipe, rng: torch.Generator) -> tuple[Tensor, list[Report]]:
    """Train a rotation and a boundary; return the rotation and what the evaluations, evenly spread, saw on ``test``.

    Batches come in the order of the rows, the last one short.
    """
    width, device, dtype = train.base.shape[1], train.base.device, train.base.dtype
    base = torch.linalg.qr(torch.randn(width, width, generator=rng, dtype=dtype)).Q.to(device)
    free = torch.zeros(width, width, device=device, dtype=dtype, requires_grad=True)
    boundary = torch.tensor([1.0, 0.0], device=device, dtype=dtype, requires_grad=True)
    rates = [{"params": [free], "lr": recipe.rotation_rate}, {"params": [boundary], "lr": recipe.boundary_rate}]
    optimizer = torch.optim.Adam(rates, fused=True)
    parts = torch.arange(len(train.base), device=device).split(recipe.batch)
    steps = recipe.epochs * len(parts)
    heat, due, reports = temperatures(recipe, steps).tolist(), _due(steps, recipe.evaluations), []
    for step in range(steps):
        rows = parts[step % len(parts)]
        for group, rate in zip(optimizer.param_groups, (recipe.rotation_rate, recipe.boundary_rate), strict=True):
            group["lr"] = rate * _schedule(step, steps)
        rotation, gate = rotation_of(base, free), gates(boundary, width, heat[step])
        found = logits(exchange(train.base[rows], train.source[rows], rotation, gate))
        loss = F.cross_entropy(found, train.answers[rows])
        optimizer.zero_grad()
        (loss + regulariser(boundary, rotation)).backward()
        optimizer.step()
        if step + 1 in due:
            reports.append(_report(logits, test, base, free, boundary, step + 1, heat[step], float(loss.detach())))
    return rotation_of(base, free.detach()), reports


def _due(steps: int, evaluations: int) -> set[int]:
    return {round(steps * (i + 1) / evaluations) for i in range(evaluations)}


def _schedule(step: int, steps: int) -> float:
    """Linear warm-up over a tenth of the steps, then linear decay to zero."""
    warm = steps // 10
    return step / max(1, warm) if step < warm else max(0.0, (steps - step) / max(1, steps - warm))


@torch.inference_mode()
def _report(logits: Logits, test: Pairs, base, free, boundary, step: int, heat: float, loss: float) -> Report:
    rotation = rotation_of(base, free)
    gate = gates(boundary, len(base), heat)
    hits = accuracy(logits, test, rotation, gate)
    return Report(step, hits, *boundary.tolist(), heat, loss)


@torch.inference_mode()
def accuracy(logits: Logits, pairs: Pairs, rotation: Tensor, gate: Tensor) -> float:
    """Return the share of pairs whose exchange gives the wanted answer."""
    found = logits(exchange(pairs.base, pairs.source, rotation, gate))
    return float((found.argmax(1) == pairs.answers).double().mean())


def published_rows(n: int, wanted: Iterable[int], seed: int = 0) -> list[Int[Tensor, " k"]]:
    """Return rows drawn by ``torch.utils.data.random_split`` of ``n`` rows into parts of the wanted sizes."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    parts, start = [], 0
    for size in wanted:
        parts.append(order[start : start + size])
        start += size
    return parts
