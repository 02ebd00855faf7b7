"""The experiments of greater-than on a small random model: closed forms against brute force, the rule, the tables' meaning."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import oracle
from recircuit.core.families import load
from recircuit.core.nodes import Node, head
from recircuit.core.tokenizer import Tokenizer, word_level
from recircuit.experiments.greater_than import checks, choice, circuits, evaluation, generalisation, neurons, semantics
from recircuit.experiments.greater_than import random_circuits as random
from recircuit.experiments.greater_than import representations as reps
from recircuit.experiments.greater_than.setting import Setting
from recircuit.experiments.greater_than.stages import end_stages, input_stages, stage_table
from recircuit.methods.neurons import activations, swap_each
from recircuit.tasks.corpus import vocabulary
from recircuit.tasks.greater_than import POOLS, prompts_table, year_ids
from recircuit.tasks.greater_than_tasks import tasks_table

NODES = pd.DataFrame(
    [
        ("late_head", "a1.h1", 1, 1), ("late_head", "a2.h0", 2, 0), ("late_mlp", "m1", 1, None), ("late_mlp", "m2", 2, None),
        ("low_head", "a0.h0", 0, 0), ("low_mlp", "m0", 0, None), ("low_mlp_head", "a0.h1", 0, 1),
    ],
    columns=["role", "node", "layer", "head"],
).assign(score=-0.1, source="found")  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(word_level(list(vocabulary())), "words")


@pytest.fixture(scope="module")
def setting(tokenizer, tmp_path_factory):
    size = len(vocabulary()) + 1
    hf = oracle.random_gpt2(layers=3, heads=2, d=16, vocab=size, positions=20, seed=11, std=0.3)
    model = load(oracle.save(hf, tmp_path_factory.mktemp("years")), dtype=torch.float64)
    frame = prompts_table(tokenizer, {"discovery": 97, "population": 150, "seeds": 1}, 0, lambda line: None)
    frame = pd.concat([frame, tasks_table(tokenizer, POOLS["code768"], 0, lambda line: None)], ignore_index=True)
    return Setting(model, frame, year_ids(tokenizer), chunk=40)


def pd_of(logits, ids, yy, direction="gt"):
    """The metric once more, by a loop."""
    found = []
    for row, y in zip(logits.softmax(-1)[:, ids].tolist(), yy.tolist(), strict=True):
        sign = [(year > y) if direction == "gt" else (year < y) for year in range(100)]
        found.append(sum(p if s else -p for p, s in zip(row, sign, strict=True)))
    return np.array(found)


def logits_of(model, x):
    return torch.nn.functional.layer_norm(x, x.shape[-1:], *model.final_norm, model.spec.eps) @ model.unembedding.T


def test_the_full_model_scores_are_those_of_transformers_in_the_data_sets_order(setting, tmp_path):
    data = setting.data("D10k")
    found = evaluation.run(setting, data, [])
    model = setting.model
    from recircuit.runs.forward import forward

    for name, tokens in (("clean", data.good), ("corrupt", data.bad)):
        logits = forward(model, tokens, data.positions["end"])
        assert np.abs(found[name].pd - pd_of(logits, setting.ids, data.yy)).max() < 1e-10
        assert (found[name].top == logits.argmax(-1).numpy()).all()


def test_a_chunk_of_any_size_gives_the_same(setting):
    data = setting.data("D490")
    whole = evaluation.run(setting, data, [])["clean"].pd
    other = setting.on(setting.model)
    other.chunk = 8
    assert np.abs(evaluation.run(other, data, [])["clean"].pd - whole).max() < 1e-12


def test_each_neuron_swapped_in_closed_form_equals_the_long_way(setting):
    data, layer = setting.data("D490"), 1
    pair = next(setting.pairs(data))
    good, bad = (activations(setting.model, layer, run.at["end"].reads[layer]) for run in (pair.good, pair.bad))
    final, down = pair.good.at["end"].final, setting.model.blocks[layer].down
    whole = good @ down + setting.model.blocks[layer].down_bias
    assert (whole - pair.good.at["end"].out[layer]).abs().max() < 1e-10
    for chosen, logits in swap_each(setting.model, layer, final, bad - good, group=5):
        for i, n in enumerate(range(*chosen.indices(len(down)))):
            moved = final + (bad - good)[:, n : n + 1] * down[n]
            assert (logits[i] - logits_of(setting.model, moved)).abs().max() < 1e-10


def test_neurons_are_ranked_by_what_is_lost_without_them(setting):
    data = setting.data("D490")
    tables = neurons.neurons(setting, data, 1, lambda line: None)
    ranking = tables["gt_neurons"].set_index("neuron")
    worst = int(ranking["delta_pd"].idxmin())
    assert ranking.loc[worst, "rank"] == 1 and sorted(ranking["rank"]) == list(range(1, len(ranking) + 1))
    acts = neurons._Acts(setting, data, 1)
    moved = acts.final + acts.change[:, [worst]] @ setting.model.blocks[1].down[[worst]]
    lost = pd_of(logits_of(setting.model, moved), setting.ids, acts.yy) - pd_of(
        logits_of(setting.model, acts.final), setting.ids, acts.yy
    )
    assert abs(lost.mean() - ranking.loc[worst, "delta_pd"]) < 1e-10
    assert abs(lost.std(ddof=1) / len(lost) ** 0.5 - ranking.loc[worst, "delta_pd_sem"]) < 1e-10
    curve = tables["gt_neuron_curve"].set_index(["mode", "k"])["pd"]
    everything = len(ranking)
    assert abs(curve["top_corrupt", 0] - curve["only_top_clean", everything]) < 1e-12
    assert abs(curve["top_corrupt", everything] - curve["only_top_clean", 0]) < 1e-12


def test_the_lenses_are_what_they_say(setting, tokenizer):
    data, circuit = setting.data("D490"), circuits.YearCircuit.of(NODES)
    tables = semantics.semantics(setting, data, circuit, tokenizer, lambda line: None)
    lens = tables["gt_lens"]
    pairs = list(setting.pairs(data))
    model, u = setting.model, setting.model.unembedding[setting.ids].T
    e, z = model.spec.d_head, torch.cat([p.good.at["end"].z[1][:, 1] for p in pairs])
    write, final, yy = (
        z @ model.blocks[1].heads.out[e : 2 * e],
        *(torch.cat(x) for x in zip(*((p.good.at["end"].final, p.yy) for p in pairs), strict=True)),
    )
    scale = (final - final.mean(-1, keepdim=True)).square().mean(-1, keepdim=True).add(model.spec.eps).sqrt()
    expected = {
        "own_ln": logits_of(model, write)[:, setting.ids],
        "raw": write @ u,
        "frozen_ln": (write - write.mean(-1, keepdim=True)) / scale * model.final_norm.weight @ u,
    }
    for name, values in expected.items():
        rows = lens[(lens["component"] == "a1.h1") & (lens["lens"] == name)].sort_values(["yy", "pred"])
        mean = torch.stack([values[yy == y].mean(0) for y in sorted(set(yy.tolist()))]).flatten()
        assert np.abs(rows["value"].to_numpy() - mean.numpy()).max() < 1e-6
    pattern = tables["gt_attention"]
    assert (pattern.groupby(["head", "query_pos"])["mean"].sum() - 1).abs().max() < 1e-10
    by_year = tables["gt_attention_yy"]
    overall = pattern.query("head == 'a1.h1' and query_pos == 12 and key_pos == 8")["mean"].iloc[0]
    assert abs(by_year[(by_year["head"] == "a1.h1") & (by_year["yy"] > 1)]["mean"].mean() - overall) < 1e-10


def test_direct_and_indirect_shares_are_stages_of_their_own(setting, tokenizer):
    data, circuit = setting.data("D490"), circuits.YearCircuit.of(NODES)
    split = semantics.semantics(setting, data, circuit, tokenizer, lambda line: None)["mlp_split"].set_index("layer")
    ipp = stage_table(setting, data, end_stages(setting.model)).query("stage == 'logits'").set_index("sender")
    for layer in (1, 2):
        row = ipp.loc[f"m{layer}"]
        assert abs(split.loc[layer, "direct"] + row["delta_pd"] / row["baseline_pd"]) < 1e-10
    assert split.loc[2, "indirect"] == pytest.approx(0, abs=1e-12)  # nothing comes after the last MLP


def test_nothing_patched_changes_nothing_and_everything_patched_is_the_other_run(setting):
    data = setting.data("D490")
    pair = next(setting.pairs(data))
    for variant in circuits.variants():
        if variant.mode == "sufficiency" and variant.qkv == "bbb":
            same = circuits.evaluate(setting.model, circuits.YearCircuit.of(NODES), pair, variant)
            assert (same - pair.bad.at["end"].final).abs().max() < 1e-10
    every = [head(l, h) for l in range(3) for h in range(2)]
    whole = circuits.sufficiency_of(setting.model, pair, every, range(3))
    assert (whole - pair.good.at["end"].final).abs().max() < 1e-10  # the token at the end is the same in both


def test_erasing_nothing_keeps_the_run_and_erasure_is_idempotent(setting):
    data, circuit = setting.data("D490"), circuits.YearCircuit.of(NODES)
    pair = next(setting.pairs(data))
    assert (reps.erased_final(setting, pair, {}, circuit) - pair.good.at["end"].final).abs().max() < 1e-10
    table = reps.erasure(setting, data, NODES, lambda line: None)
    assert set(table["site"]) == {"m1", "m2", "a1.h1", "all late MLPs"}
    leace = table[(table["method"] == "leace") & table["r2_after"].notna()]
    assert (leace["r2_after"] < 1e-6).all() and (leace["r2_before"] > leace["r2_after"]).all()


def test_the_rule_takes_what_costs_enough_and_is_certain():
    rows = [
        ("logits", "m2", -0.2, 0.01), ("logits", "a2.h0", -0.05, 0.001), ("logits", "a2.h1", -0.05, 0.02),  # uncertain
        ("logits", "m1", -0.001, 0.0001), ("logits", "a1.h0", 0.3, 0.001),  # too little; and it helps
        ("m2", "a1.h1", -0.06, 0.001), ("m2", "m0", -0.1, 0.001), ("m1", "a1.h0", -0.5, 0.001),  # m1 is not in: not asked
        ("m0", "a0.h1", -0.07, 0.001),
        ("v", "embed", -0.2, 0.01), ("v", "a0.h0", -0.1, 0.01), ("k", "m0", -0.1, 0.01), ("low_m0", "a0.h1", -0.3, 0.01),
        ("low_m1", "a0.h0", -0.3, 0.01),
    ]  # fmt: skip
    ipp = pd.DataFrame(rows, columns=["stage", "sender", "delta_pd", "delta_pd_sem"]).assign(eligible=True, baseline_pd=0.8)
    late = choice.late_nodes(ipp, 0.02).groupby("role")["node"].apply(set)
    assert late["late_head"] == {"a2.h0", "a1.h1", "a0.h1"} and late["late_mlp"] == {"m2", "m0"}
    low = choice.low_nodes(ipp, 0.02).groupby("role")["node"].apply(set)
    assert low.to_dict() == {"low_embed": {"embed"}, "low_head": {"a0.h0"}, "low_mlp": {"m0"}, "low_mlp_head": {"a0.h1"}}


def test_the_published_circuits_are_read_as_they_were_printed():
    main = circuits.YearCircuit.of(choice.published())
    assert [str(n) for n in main.heads] == ["a5.h1", "a5.h5", "a6.h9", "a7.h10", "a8.h8", "a8.h11", "a9.h1"]
    assert main.mlps == (8, 9, 10, 11) and main.low_mlps == (0, 1, 2, 3) and not main.token
    assert [str(n) for n in main.low_mlp_heads] == ["a0.h1"]
    edges = circuits.published_edges()
    assert {str(n) for n in edges[9]} == {"a9.h1"} and len(edges[8]) == 6
    assert len(choice.published("acdc_variant").query("role == 'late_head'")) == 6


def test_random_circuits_have_the_circuits_size(setting):
    circuit = circuits.YearCircuit.of(NODES)
    tried = list(random.candidates(circuit, 3, 2, 0, 30, published=False))
    families = {f: [c for c in tried if c.family == f] for f in ("any_layer", "same_layers", "mlp_subset", "without")}
    assert all(len(c.heads) == 2 and len(c.mlps) == 2 for c in families["any_layer"] + families["same_layers"])
    assert all([n.layer for n in c.heads] == [1, 2] for c in families["same_layers"])
    assert len(families["mlp_subset"]) == 4 and len(families["without"]) == 4
    table = random.random_circuits(setting, setting.data("D200"), tried, circuit)
    ours = table.iloc[0]
    hits = (table.loc[table["family"] == "any_layer", "recovery"] >= ours["recovery"]).sum()
    assert ours["p_value"] == (1 + hits) / 31
    same = table[(table["heads"] == ours["heads"]) & (table["mlps"] == ours["mlps"])]
    assert len(same) >= 2 and same["pd"].std() < 1e-12  # the subset that is the whole


def test_related_tasks_are_scored_in_their_own_direction(setting):
    tables = generalisation.tasks(setting, NODES, lambda line: None)
    rows = tables["gt_tasks"].set_index(["task", "variant"])
    assert rows.loc[(3, "fixed"), "baseline_pd_gt"] != pytest.approx(rows.loc[(3, "fixed"), "baseline_pd_lt"])
    data = setting.data("T3")
    clean = evaluation.run(setting, data, [])["clean"]
    assert rows.loc[(3, "fixed"), "baseline_pd_lt"] == pytest.approx(clean.pd.mean(), abs=1e-7)
    assert rows["exact_match"].notna().sum() == 1
    assert {"logits", "m1"} <= set(tables["ipp"].query("dataset == 'T2'")["stage"])


def test_activations_are_told_apart(setting):
    other = evaluation.activated(setting.model, "gelu")
    assert other.spec == replace(setting.model.spec, activation="gelu") and setting.model.spec.activation == "gelu_new"
    rows = checks.regression(setting, lambda line: None, published=False).set_index("activation")
    assert set(rows.index) == {"gelu_new", "gelu"} and rows["mean_pd"].nunique() == 2 and rows["difference"].isna().all()


def test_tokens_are_read_as_numbers_by_both_rules():
    texts = ["Ġ17", "17", "Ġ1", "Ġ170", "Ġxx", "ab"]
    assert checks.numbers(texts, leading_space=True, strict=True) == [17, -1, -1, -1, -1, -1]
    assert checks.numbers(texts, leading_space=True, strict=False) == [17, 7, 1, 170, -1, -1]
    assert checks.numbers(["07", "Ġ07", "7"], leading_space=False, strict=True) == [7, -1, -1]


def test_stages_name_every_sender_once(setting):
    circuit = circuits.YearCircuit.of(NODES)
    stages = end_stages(setting.model) | input_stages(setting.model, circuit.heads, circuit.mlps)
    table = stage_table(setting, setting.data("D490"), stages)
    assert not table.duplicated(["stage", "sender"]).any()
    assert (table.loc[~table["eligible"], "delta_pd"] == 0).all()
    eligible = table[table["eligible"]].groupby("stage").size()
    assert eligible["logits"] == 9 and eligible["m2"] == 6 + 2 and eligible["low_m0"] == 1 + 2
    assert {Node.parse(s) for s in table.query("stage == 'v' and eligible")["sender"]} >= {Node("embed"), head(0, 1)}
