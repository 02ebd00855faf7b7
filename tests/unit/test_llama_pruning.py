"""The Llama part's node search: equal to the paper's loop over plain hooks on transformers' own Llama, in both variants."""

import pandas as pd
import pytest
import torch

import oracle
from recircuit.core.families import load
from recircuit.core.nodes import Node
from recircuit.experiments.sequence_continuation.llama_pruning import cases, prune_llama
from recircuit.study.tables import read_table, write_table

LAYERS, HEADS, VOCAB, THRESHOLD = 3, 4, 50, 30
SHAPES = {"numwords": (6, 5), "numerals": (5, 8)}  # prompts, tokens of each
FROM_LAST = {"published": 2, "fixed": 1}


def table(draws=2, seed=0):
    """Random prompts of two lengths, the longer task first, and their corrupted twins."""
    rng, rows = torch.Generator().manual_seed(seed), []

    def add(task, kind, draw):
        n, length = SHAPES[task]
        for i, tokens in enumerate(torch.randint(VOCAB, (n, length), generator=rng).tolist()):
            corr, incorr = (7 * i + 3) % VOCAB, (11 * i + 5) % VOCAB
            rows.append((task, kind, draw, i, tokens, corr, incorr))

    for task in SHAPES:
        add(task, "clean", 0)
        add(task, "corrupted", 0)
        for draw in range(1, draws + 1):
            add(task, "corrupted_fixed", draw)
    return pd.DataFrame(rows, columns=["task", "set", "draw", "row", "tokens", "corr_id", "incorr_id"])


@pytest.fixture(params=["llama", "llama, shared keys", "neox"])
def both(request, tmp_path, monkeypatch):
    oracle.exact_norms_and_angles(monkeypatch)
    shape = dict(layers=LAYERS, heads=HEADS, d=32, vocab=VOCAB, positions=16, seed=4)
    kinds = {
        "llama": lambda: oracle.random_llama(**shape),
        "llama, shared keys": lambda: oracle.random_llama(num_key_value_heads=2, **shape),
        "neox": lambda: oracle.random_neox(**shape),
    }
    slow = kinds[request.param]()
    return oracle.HookedFamily(slow), load(oracle.save(slow, tmp_path), dtype=torch.float64)


def tensors(prompts, task, kind, draw):
    rows = prompts[(prompts["task"] == task) & (prompts["set"] == kind) & (prompts["draw"] == draw)]
    return torch.tensor(rows["tokens"].tolist()), torch.tensor(rows[["corr_id", "incorr_id"]].to_numpy())


def literal(hooked, prompts, task, variant, draw):
    """Return (clean logit difference, score(heads, mlps) in percent, score with a single node replaced) of one run."""
    tokens, answers = tensors(prompts, task, "clean", 0)
    corrupted, _ = tensors(prompts, task, "corrupted" if variant == "published" else "corrupted_fixed", draw)
    end = torch.full((len(tokens),), tokens.shape[1] - FROM_LAST[variant])
    _, zs, outs = hooked.run(corrupted)
    z_means, mlp_means = [z.mean(0) for z in zs], [out.mean(0) for out in outs]

    def difference(logits):
        picked = oracle.answer_logits(logits, end, answers)
        return float((picked[:, 0] - picked[:, 1]).mean())

    full = difference(hooked.run(tokens)[0])

    def score(heads, mlps):
        logits = oracle.circuit_logits(hooked, tokens, end, answers, heads, mlps, z_means, mlp_means, corrupted)
        return 100 * float((logits[:, 0] - logits[:, 1]).mean()) / full

    def alone(node):
        if node.kind == "mlp":
            return 100 * difference(hooked.run(tokens, mlps={node.layer: mlp_means[node.layer]})[0]) / full
        mean = z_means[node.layer][:, node.head]
        return 100 * difference(hooked.run(tokens, {(node.layer, node.head): mean})[0]) / full

    return full, score, alone


def one_backward_pass(score):
    """The first pass of the paper's loop; return (component, score, removed) of each evaluation and the heads and MLPs left."""
    rows, _, _ = oracle.literal_pruning(score, LAYERS, HEADS, THRESHOLD)
    first = [row[2:] for row in rows if row[:2] == (1, "backward")]
    gone = {component for component, _, removed in first if removed}
    heads = {(l, h) for l in range(LAYERS) for h in range(HEADS)} - gone
    return first, heads, set(range(LAYERS)) - gone


def named(component):
    return f"m{component}" if isinstance(component, int) else "a{}.h{}".format(*component)


@pytest.mark.parametrize("variant", ["published", "fixed"])
def test_one_pass_equals_the_literal_loop(both, variant):
    hooked, model = both
    prompts = table()
    trace, circuits, drops = prune_llama(model, prompts, variant, THRESHOLD, 8, print)
    draws = [0] if variant == "published" else [1, 2]
    assert sorted(set(zip(trace["task"], trace["draw"], strict=True))) == [(t, d) for t in sorted(SHAPES) for d in draws]
    kept = {task: [] for task in SHAPES}
    for (task, draw), rows in trace.groupby(["task", "draw"]):
        full, score, alone = literal(hooked, prompts, task, variant, draw)
        expected, heads, mlps = one_backward_pass(score)
        assert rows["order"].tolist() == list(range(1, LAYERS * (HEADS + 1) + 1))
        assert rows["node"].tolist() == [named(component) for component, _, _ in expected]
        assert rows["removed"].tolist() == [removed for _, _, removed in expected]
        assert (rows["score_pct"] - [value for _, value, _ in expected]).abs().max() < 1e-8
        assert (rows["full_ld"] - full).abs().max() < 1e-10
        assert (rows["margin_pct"] - rows["score_pct"] + 100 - THRESHOLD).abs().max() < 1e-9
        left = {*map(named, heads), *map(named, mlps)}
        assert set(circuits.loc[(circuits["task"] == task) & (circuits["draw"] == draw), "node"]) == left
        kept[task].append(left)
        of_run = drops[(drops["task"] == task) & (drops["draw"] == draw)]
        inside, outside = (of_run[of_run["base"] == base] for base in ("circuit", "full"))
        assert set(zip(inside["layer"], inside["head"], strict=True)) == heads
        base = score(heads, mlps) if heads else None
        for row in inside.itertuples():
            without = score(heads - {(row.layer, row.head)}, mlps)
            assert abs(row.score_pct - without) < 1e-8 and abs(row.drop_pp - without + base) < 1e-8
            assert abs(row.base_pct - base) < 1e-8
        assert len(outside) == LAYERS * (HEADS + 1)
        for row in outside.itertuples():
            node = Node("mlp", row.layer) if row.component == "mlp" else Node("attn", row.layer, int(row.head))
            assert abs(row.score_pct - alone(node)) < 1e-8 and abs(row.drop_pp - row.score_pct + 100) < 1e-9
    for row in circuits.itertuples():
        assert row.share == sum(row.node in left for left in kept[row.task]) / len(draws)
    assert {True, False} == set(trace["removed"])


def test_percentages_divide_by_negative_differences_too(both):
    _, model = both
    flipped = table().rename(columns={"corr_id": "incorr_id", "incorr_id": "corr_id"})
    ours, other = (prune_llama(model, rows, "published", THRESHOLD, 8, print)[0] for rows in (table(), flipped))
    assert ((ours["full_ld"] + other["full_ld"]).abs() < 1e-10).all() and (ours["full_ld"] != 0).all()
    assert (ours["score_pct"] - other["score_pct"]).abs().max() < 1e-8, "percentages do not know the sign"


def test_cases_read_the_last_token_but_one_as_published():
    for variant, from_last in FROM_LAST.items():
        for task, draw, clean, corrupted in cases(table(), variant, torch.device("cpu")):
            n, length = SHAPES[task]
            assert clean.tokens.shape == corrupted.shape == (n, length)
            assert clean.end.tolist() == [length - from_last] * n
            assert (draw == 0) == (variant == "published")


def test_tables_fit_their_schemas(both, tmp_path):
    _, model = both
    found = prune_llama(model, table(), "fixed", THRESHOLD, 8, print)
    for name, rows in zip(("llama_trace", "llama_circuits", "llama_drops"), found, strict=True):
        write_table(rows.assign(model="m", variant="fixed"), tmp_path / f"{name}.parquet", name, {})
        assert len(read_table(tmp_path / f"{name}.parquet", name)) == len(rows)


def test_a_circuit_that_is_empty_has_no_rows_but_counts_as_a_draw(both):
    _, model = both
    trace, circuits, drops = prune_llama(model, table(), "fixed", 1e9, 8, print)
    assert trace["removed"].all() and circuits.empty and set(drops["base"]) == {"full"}
    assert list(circuits.columns) == ["task", "draw", "node", "component", "layer", "head", "share"]
