"""What the fast routes cost: floating-point operations against the formula, and chunks against the memory."""

from itertools import chain, repeat

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import oracle
from recircuit.core.errors import UserError
from recircuit.core.families import load
from recircuit.core.nodes import Circuit
from recircuit.experiments.sequence_continuation import baseline
from recircuit.methods.ablation import Prompts, circuit_logits, mean_reference, zero_reference
from recircuit.methods.sweep import sweep_nodes
from recircuit.runs import budget
from recircuit.runs.budget import BLOCK, Mean, chunk_size, in_chunks
from recircuit.tasks.sequence_continuation import TASKS

N, T = 32, 14


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    slow = oracle.random_gpt2(layers=4, heads=4, d=64, vocab=80)
    return load(oracle.save(slow, tmp_path_factory.mktemp("model")), dtype=torch.float32)


@pytest.fixture(scope="module")
def prompts():
    tokens = torch.randint(80, (N, T), generator=torch.Generator().manual_seed(0))
    return Prompts(tokens, torch.full((N,), T - 1), tokens[:, :2].clone())


def sweep_formula(spec, n, length, columns):
    """The floor of an exact sweep with shared prefixes and a tail at the last position (one variant per head and MLP)."""
    layers, heads, d, e = spec.n_layers, spec.n_heads, spec.d_model, spec.d_head
    layer = 24 * d * d + 4 * d * length
    everywhere = sum((heads + 1) * (layers - 2 - at) * layer for at in range(layers - 1))
    everywhere += (layers - 1) * (heads * 16 * d * d + (heads + 1) * 4 * d * d) + layers * layer + layers * heads * 2 * e * d
    at_end = (heads + 1) * (layers - 1) * (20 * d * d + 4 * d * length) + heads * 16 * d * d
    return n * length * everywhere + n * (at_end + (heads + 1) * layers * 2 * d * columns)


def test_the_sweep_costs_no_more_than_the_formula(model, prompts):
    reference = zero_reference(model, T, folded=False)
    with FlopCounterMode(display=False) as counter:
        sweep_nodes(model, prompts, reference, N)
    formula = sweep_formula(model.spec, N, T, 2)
    assert 0.8 * formula < counter.get_total_flops() <= 1.02 * formula


def test_a_small_circuit_costs_as_much_as_the_circuit(model, prompts):
    reference = zero_reference(model, T, folded=False)

    def flops(circuit):
        with FlopCounterMode(display=False) as counter:
            circuit_logits(model, prompts, circuit, reference, N)
        return counter.get_total_flops()

    # One MLP of four is a sixth of the full model, one head of sixteen a fiftieth; constants and the tail come on top.
    assert flops(Circuit.of([(0, 1)], [1])) < 0.25 * flops(Circuit.full(4, 4))


def test_chunks_do_not_change_a_bit(model, prompts):
    means = [mean_reference(model, prompts.tokens, "position", chunk) for chunk in (8, 16, 32)]
    sweeps = [sweep_nodes(model, prompts, means[0], chunk) for chunk in (8, 16, 32)]
    for mean, sweep in zip(means[1:], sweeps[1:], strict=True):
        assert torch.equal(mean.heads, means[0].heads)
        assert torch.equal(mean.mlps, means[0].mlps)
        assert torch.equal(sweep.ablated, sweeps[0].ablated)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")])
def test_out_of_memory_halves_the_chunk_and_goes_on(error):
    seen, failures = [], chain([False, True, True], repeat(False))

    def work(rows):
        if next(failures):
            raise error
        seen.append((rows.start, rows.stop))
        return rows.stop - rows.start

    sizes = [size for _, size in in_chunks(work, 100, 32)]
    assert sum(sizes) == 100
    assert seen[:3] == [(0, 32), (32, 40), (40, 48)]


def test_out_of_memory_at_the_smallest_chunk_is_one_sentence():
    def work(rows):
        raise MemoryError

    with pytest.raises(UserError, match="8 prompts at once do not fit the memory"):
        list(in_chunks(work, 100, 64))


def test_other_errors_are_not_swallowed():
    with pytest.raises(RuntimeError, match="shapes"):
        list(in_chunks(lambda rows: (_ for _ in ()).throw(RuntimeError("shapes")), 10, 8))


def test_chunk_size_is_within_the_budget(model):
    for gigabytes in (0.001, 0.01, 0.1, 1):
        chunk = chunk_size(model.spec, T, gigabytes * 2**30)
        assert chunk % BLOCK == 0
        assert chunk == BLOCK or chunk * budget.row_bytes(model.spec, T) <= gigabytes * 2**30


def test_mean_is_the_mean():
    values = torch.from_numpy(np.random.default_rng(0).normal(size=(45, 3)))
    mean = Mean()
    for part in values.split(16):
        mean.add(part)
    assert torch.allclose(mean.value(torch.float64), values.mean(0), rtol=0, atol=1e-15)


def test_the_baseline_survives_an_out_of_memory(model, prompts, monkeypatch):
    tokens = prompts.tokens.tolist()
    rows = [
        {"task": task, "set": "clean", "row": i, "tokens": row, "corr_id": row[0], "incorr_id": row[1]}
        for task in TASKS
        for i, row in enumerate(tokens)
    ]
    whole = baseline.baseline(model, pd.DataFrame(rows), None, N, lambda line: None)
    fails, real = chain([True], repeat(False)), baseline.forward

    def forward(*args):
        if next(fails):
            raise MemoryError
        return real(*args)

    monkeypatch.setattr(baseline, "forward", forward)
    pd.testing.assert_frame_equal(baseline.baseline(model, pd.DataFrame(rows), None, N, lambda line: None), whole)
