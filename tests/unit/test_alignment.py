"""Boundless DAS against torch's own parametrization and optimisers, literal loops, and subspaces that were planted."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import orthogonal
from torch.utils.data import random_split
from transformers import get_linear_schedule_with_warmup

from recircuit.methods.alignment import (
    Pairs,
    Recipe,
    accuracy,
    align,
    exchange,
    gates,
    published_rows,
    regulariser,
    rotation_of,
    temperatures,
)

HOTTEST = 3.0  # of 8 coordinates; the published 50 is of 128


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def rotation(width, seed=0):
    return torch.linalg.qr(torch.randn(width, width, generator=rng(seed), dtype=torch.float64)).Q


class Parametrized(nn.Module):
    """torch's orthogonal matrix at a base, by the matrix exponential, trivialised there."""

    def __init__(self, base):
        super().__init__()
        self.linear = nn.Linear(*base.shape, bias=False, dtype=base.dtype)
        self.linear.weight = nn.Parameter(base.clone())
        orthogonal(self.linear, "weight", orthogonal_map="matrix_exp", use_trivialization=True)

    @property
    def parameter(self):
        return self.linear.parametrizations.weight.original


def test_rotations_and_their_gradients_are_torchs():
    base, free = rotation(7), torch.randn(7, 7, generator=rng(1), dtype=torch.float64)
    theirs, ours = Parametrized(base), free.clone().requires_grad_()
    with torch.no_grad():
        theirs.parameter.copy_(free)
    found, weight = rotation_of(base, ours), torch.randn(7, 7, generator=rng(2), dtype=torch.float64)
    assert (found - theirs.linear.weight).abs().max() < 1e-12
    (found * weight).sum().backward()
    (theirs.linear.weight * weight).sum().backward()
    assert ours.grad.abs().max() > 0.1 and (ours.grad - theirs.parameter.grad).abs().max() < 1e-12
    assert (found @ found.T - torch.eye(7)).abs().max() < 1e-12
    assert (rotation_of(base, torch.zeros(7, 7, dtype=torch.float64)) - base).abs().max() < 1e-12


def literal_gates(boundary, width, heat):
    def sigmoid(x):
        return 1 / (1 + math.exp(-x)) if x > -700 else 0.0

    edge = min(max(boundary, 1e-3), 1.0) * width
    return [sigmoid(i / heat) * sigmoid((edge - i) / heat) for i in range(width)]


@pytest.mark.parametrize("boundary", [1.7, 1.0, 0.45, 0.0, -2.0])
@pytest.mark.parametrize("heat", [50.0, 1.0, 0.1])
def test_gates_and_exchanges_are_those_of_literal_loops(boundary, heat):
    width, q = 8, rotation(8, 3)
    gate = gates(torch.tensor([boundary, -3.0], dtype=torch.float64), width, heat)
    expected = literal_gates(boundary, width, heat)
    assert gate.tolist() == pytest.approx(expected, abs=1e-12)
    base, source = (torch.randn(4, width, generator=rng(seed), dtype=torch.float64) for seed in (4, 5))
    found = exchange(base, source, q, gate)
    for row in range(4):
        mixed = []
        for i in range(width):
            own, other = (sum(x[row, k].item() * q[k, i].item() for k in range(width)) for x in (base, source))
            mixed.append((1 - expected[i]) * own + expected[i] * other)
        back = [sum(mixed[i] * q[k, i].item() for i in range(width)) for k in range(width)]
        assert found[row].tolist() == pytest.approx(back, abs=1e-12)


def test_a_cold_gate_is_a_step_but_for_half_of_the_first_coordinate():
    gate = gates(torch.tensor([0.5, 0.0], dtype=torch.float64), 128, 0.01)
    assert gate[0] == 0.5 and (gate[1:64] > 1 - 1e-12).all() and (gate[65:] < 1e-12).all()


def test_temperatures_fall_evenly_in_bfloat16_one_step_late():
    found, schedule = temperatures(Recipe(), 5000), torch.linspace(50.0, 0.1, 5000).to(torch.bfloat16)
    for step, entry in ((0, 0), (1, 0), (2, 1), (3, 2), (2500, 2499), (4999, 4998)):
        assert found[step] == float(schedule[entry]), step
    assert len(found) == 5000 and found[0] == 50.0
    assert 0.1 < found[-1] < 0.12 and found.unique().numel() < 2500  # bfloat16 has few values


def literal_alignment(logits, pairs, recipe, base, steps):
    """Train with torch's parametrization, transformers' schedule and every formula written out; return what can be seen."""
    module, boundary = Parametrized(base), nn.Parameter(torch.tensor([1.0, 0.0], dtype=torch.float64))
    groups = [{"params": [module.parameter], "lr": 1e-2}, {"params": [boundary], "lr": 5e-3}]
    optimizer = torch.optim.Adam(groups, fused=False, foreach=False)
    schedule = get_linear_schedule_with_warmup(optimizer, num_warmup_steps=0.1 * steps, num_training_steps=steps)
    falling = torch.linspace(50.0, 0.1, steps).to(torch.bfloat16)
    width, step, seen = len(base), 0, []
    for _ in range(recipe.epochs):
        for start in range(0, len(pairs.base), recipe.batch):
            x, y, answers = (part[start : start + recipe.batch] for part in pairs)
            q, heat = module.linear.weight, falling[max(step - 1, 0)].double()
            edge = torch.clamp(boundary[0], 1e-3, 1) * width
            places = torch.arange(width)
            mask = torch.sigmoid((places - 0) / heat) * torch.sigmoid((edge - places) / heat)
            mixed = ((1 - mask) * (x @ q) + mask * (y @ q)) @ q.T
            loss = F.cross_entropy(logits(mixed), answers)
            extra = boundary[0] + boundary[1] + torch.mean(q * (1 - q))
            extra = extra + 0.5 * ((q.sum(1) - 1).abs().mean() + (q.sum(0) - 1).abs().mean())
            optimizer.zero_grad()
            (loss + extra).backward()
            optimizer.step()
            schedule.step()
            step += 1
            seen.append((step, *boundary.tolist(), float(heat), loss.item(), extra.item()))
    return module.linear.weight.detach(), seen


def joint(n=300, width=6, seed=0, q=None, classes=3):
    """Return pairs in which two variables stand in two pairs of rotated coordinates, and a model linear in them.

    The answer is the joint class; an exchange gives the source's first variable with the base's second.
    """
    q = rotation(width, 9) if q is None else q
    angle = torch.arange(classes, dtype=torch.float64) * 2 * math.pi / classes
    points = 2 * torch.stack([angle.cos(), angle.sin()], 1)
    values = torch.randint(classes, (n, 2, 2), generator=rng(seed))  # (base, source) by (first, second)
    noise = 0.3 * torch.randn(n, 2, width, generator=rng(seed + 50), dtype=torch.float64)
    noise[..., :2] += points[values[..., 0]]
    noise[..., 2:4] += points[values[..., 1]]

    def logits(x):
        z = (x @ q.to(x.dtype)).unflatten(-1, (-1, 2))
        first, second = (z[..., i, :] @ points.to(x.dtype).T for i in (0, 1))
        return 4 * (first[..., :, None] + second[..., None, :]).flatten(-2)

    streams = noise @ q.T
    return logits, Pairs(streams[:, 0], streams[:, 1], values[:, 1, 0] * classes + values[:, 0, 1])


def test_the_first_steps_are_those_of_a_literal_loop():
    logits, pairs = joint(70)
    recipe = Recipe(epochs=10, batch=32, evaluations=5)  # three steps an epoch, the last one short
    found, reports = align(logits, pairs, pairs, recipe, rng(1))
    base = torch.linalg.qr(torch.randn(6, 6, generator=rng(1), dtype=torch.float64)).Q
    expected, seen = literal_alignment(logits, pairs, recipe, base, 30)
    assert (found - expected).abs().max() < 1e-10 and (found - base).abs().max() > 1e-2
    assert [report.step for report in reports] == [6, 12, 18, 24, 30]
    for report in reports:
        values = report.step, report.boundary, report.second_boundary, report.temperature, report.cross_entropy
        assert values == pytest.approx(seen[report.step - 1][:5], abs=1e-10)
    gate = torch.tensor(literal_gates(reports[-1].boundary, 6, reports[-1].temperature), dtype=torch.float64)
    given = logits(((1 - gate) * (pairs.base @ expected) + gate * (pairs.source @ expected)) @ expected.T).argmax(1)
    assert reports[-1].iia == float((given == pairs.answers).double().mean())


def test_the_regulariser_is_the_authors():
    logits, pairs = joint(32)
    base = rotation(6, 2)
    _, seen = literal_alignment(logits, pairs, Recipe(epochs=1, batch=32), base, 1)
    found = regulariser(torch.tensor([1.0, 0.0], dtype=torch.float64), base)
    assert float(found) == pytest.approx(seen[0][-1], abs=1e-12)


@pytest.fixture(scope="module")
def planted():
    logits, train = joint(2500, 8, seed=1, q=rotation(8, 9))
    test = joint(1000, 8, seed=2, q=rotation(8, 9))[1]
    train, test = (Pairs(part.base.float(), part.source.float(), part.answers) for part in (train, test))
    return logits, train, test


def test_a_planted_variable_is_found_along_five_thousand_steps(planted):
    logits, train, test = planted
    everything = accuracy(logits, test, torch.eye(8), torch.ones(8))
    assert everything < 0.5  # exchanging the whole stream exchanges the other variable too
    found, reports = align(logits, train, test, Recipe(hottest=HOTTEST), rng())
    assert [report.step for report in reports] == list(range(500, 5001, 500))
    assert reports[-1].iia > 0.95
    assert reports[-1].second_boundary == pytest.approx(-12.5, abs=1e-3)
    assert 0 < reports[-1].boundary < 0.6
    assert (found @ found.T - torch.eye(8)).abs().max() < 1e-4


def test_shuffled_answers_are_not_found(planted):
    logits, train, test = planted
    train, test = (
        part._replace(answers=part.answers[torch.randperm(len(part.answers), generator=rng(7))]) for part in (train, test)
    )
    _, reports = align(logits, train, test, Recipe(epochs=40, hottest=HOTTEST), rng())
    assert reports[-1].iia < 0.25  # one in nine by chance


def test_rows_are_those_of_random_split():
    torch.manual_seed(4)
    split = random_split(range(100), [30, 50, 20], generator=rng())
    found = published_rows(100, [30, 50, 20])
    assert [part.tolist() for part in found] == [list(part.indices) for part in split]
    assert published_rows(100, [30])[0].tolist() == list(split[0].indices)
