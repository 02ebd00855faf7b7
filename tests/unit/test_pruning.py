"""Iterative pruning: decision by decision equal to the paper's loop over plain hooks; and the published traces, replayed."""

import csv
import json
from collections import defaultdict
from importlib.resources import files

import pytest
import torch

import oracle
from recircuit.core.families import load
from recircuit.core.nodes import head, mlp
from recircuit.methods import ablation
from recircuit.methods.ablation import Prompts
from recircuit.methods.pruning import Pruner

N, T, VOCAB, LAYERS, HEADS = 24, 8, 50, 4, 3


def setting(tmp_path, seed):
    """A random model and prompts whose answers it tends to get right, so that there is something to prune for."""
    hooked = oracle.Hooked(oracle.random_gpt2(layers=LAYERS, heads=HEADS, d=24, seed=seed))
    model = load(oracle.save(hooked.model, tmp_path), dtype=torch.float64)
    rng = torch.Generator().manual_seed(seed)
    tokens, corrupted = (torch.randint(VOCAB, (N, T), generator=rng) for _ in range(2))
    end = torch.full((N,), T - 1)
    full, zs, outs = hooked.run(tokens)
    means = {(l, h): zs[l].mean(0)[:, h] for l in range(LAYERS) for h in range(HEADS)}
    empty = hooked.run(tokens, means, {l: out.mean(0) for l, out in enumerate(outs)})[0]
    order = (full - empty)[:, -1].argsort(1, descending=True)  # what the heads and MLPs add, beyond the last token's own
    return hooked, model, Prompts(tokens, end, order[:, [0, 4]]), corrupted


@pytest.mark.parametrize("published", [True, False])
@pytest.mark.parametrize("threshold", [10, 30, 60])
@pytest.mark.parametrize("seed", [0, 5])
def test_pruning_equals_the_literal_loop(tmp_path, published, threshold, seed):
    hooked, model, prompts, corrupted = setting(tmp_path, seed)
    _, zs, outs = hooked.run(corrupted)
    z_means, mlp_means = [z.mean(0) for z in zs], [o.mean(0) for o in outs]
    extra = corrupted if published else None

    def difference(logits):
        return logits[:, 0] - logits[:, 1]

    full = difference(oracle.answer_logits(hooked.run(prompts.tokens)[0], prompts.end, prompts.answers)).mean()

    def score(heads, mlps):
        args = (prompts.tokens, prompts.end, prompts.answers, heads, mlps, z_means, mlp_means, extra)
        return float(100 * difference(oracle.circuit_logits(hooked, *args)).mean() / full)

    rows, heads, mlps = oracle.literal_pruning(score, LAYERS, HEADS, threshold, lambda _, c: bool(seed) and c == LAYERS - 1)
    reference = ablation.mean_reference(model, corrupted, "position", 8)
    pruner = Pruner(
        model, prompts, reference, threshold, 8, corrupted=extra, protected=frozenset({mlp(LAYERS - 1)} if seed else ())
    )
    decisions = pruner.run()
    assert len(decisions) == len(rows)
    assert {row[4] for row in rows} == {True, False}
    for ours, (iteration, direction, component, value, removed) in zip(decisions, rows, strict=True):
        expected = head(*component) if isinstance(component, tuple) else mlp(component)
        assert (ours.iteration, ours.direction, ours.node, ours.removed) == (iteration, direction, expected, removed)
        assert abs(ours.score - value) < 1e-8  # percent of a logit difference of order 1
    assert pruner.circuit.heads() == sorted(heads)
    assert pruner.circuit.mlps() == sorted(mlps)


@pytest.mark.parametrize("kind", ["zero", "resample"])
def test_pruning_with_other_references(tmp_path, kind):
    hooked, model, prompts, corrupted = setting(tmp_path, 2)
    _, zs, outs = hooked.run(corrupted)
    if kind == "zero":
        reference = ablation.zero_reference(model, T, folded=False)
        zs, outs = [torch.zeros_like(z) for z in zs], [torch.zeros_like(o) for o in outs]
    else:
        reference = ablation.resample_reference(model, corrupted, 8)
    base = oracle.answer_logits(hooked.run(prompts.tokens)[0], prompts.end, prompts.answers)
    full = (base[:, 0] - base[:, 1]).mean()

    def score(heads, mlps):
        out = oracle.circuit_logits(hooked, prompts.tokens, prompts.end, prompts.answers, heads, mlps, zs, outs)
        return float(100 * (out[:, 0] - out[:, 1]).mean() / full)

    rows, _, _ = oracle.literal_pruning(score, LAYERS, HEADS, 40)
    ours = Pruner(model, prompts, reference, 40, 8).run()
    assert [(d.direction, d.removed) for d in ours] == [(row[1], row[4]) for row in rows]
    assert max(abs(d.score - row[3]) for d, row in zip(ours, rows, strict=True)) < 1e-8


def test_published_traces_replay_to_the_published_circuits():
    """The authors' 239, 223 and 208 evaluations, taken at their word, leave exactly the circuits they print."""
    folder = files("recircuit.tasks") / "data" / "sequence_continuation"
    rows = list(csv.DictReader((folder / "reference_pruning_traces.csv").read_text().splitlines()))
    circuits = json.loads((folder / "circuits_gpt2.json").read_text())
    traces = defaultdict(list)
    for row in rows:
        if row["model"] == "gpt2-small":
            traces[row["task"], row["run"]].append(row)
    assert {key: len(trace) for key, trace in traces.items() if key[1] == "main"} == {
        ("numerals", "main"): 239, ("numwords", "main"): 223, ("months", "main"): 208,
    }  # fmt: skip
    for (task, run), trace in traces.items():
        order = iter(trace)

        def score(heads, mlps, order=order):
            return float(next(order)["score_pct_after_removal"])

        # The authors' second run of months protects MLP 11, and its forward pass printed no MLP.
        def skip(direction, component, forced=run != "main"):
            return forced and (component == 11 or (direction == "forward" and isinstance(component, int)))

        replay, heads, mlps = oracle.literal_pruning(score, 12, 12, 20, skip)
        assert next(order, None) is None
        for (iteration, direction, component, _, removed), row in zip(replay, trace, strict=True):
            layer, index = component if isinstance(component, tuple) else (component, None)
            named = (int(row["layer"]), int(row["head"]) if row["head"] else None)
            assert (iteration, direction, layer, index) == (int(row["iteration"]), row["pass"], *named)
            assert removed == bool(int(row["removed"]))
        published = circuits[task if run == "main" else "months_mlp11_forced"]
        assert sorted(heads) == sorted(map(tuple, published["heads"]))
        assert sorted(mlps) == published["mlps"]
