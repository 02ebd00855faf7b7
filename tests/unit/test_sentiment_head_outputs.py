"""The direction-ablated circuit and what heads write, against transformers' GPT-2 with hooks and autograd, float64."""

import numpy as np
import pandas as pd
import pytest
import torch

import sentiment_oracle
from recircuit.experiments.sentiment import head_outputs
from recircuit.experiments.sentiment.ablated_circuit import Ablation, ablated_circuit, attributed, negative_pairs, noised
from recircuit.experiments.sentiment.setting import Setting
from sentiment_oracle import (
    ANSWERS,
    EACH,
    HEADS,
    LAYERS,
    LENGTH,
    PLACES,
    TIGHT,
    WIDTH,
    N,
    differences,
    prompts,
    rng,
    roles,
)

case = sentiment_oracle.case


# ---- the direction set to its mean ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ablation(case):
    _, setting, toy, axes = case
    words = torch.cat([setting.streams_at(toy, name)[1] for name in ("ADJ", "VRB")])
    return Ablation.of(axes.vectors["kmeans"][1], words)


@pytest.fixture(scope="module")
def without(case, ablation):
    """Return a function that runs their model with the projection of the stream entering block 1 set to its mean."""
    theirs, _, toy, _ = case
    d = ablation.direction
    words = theirs.run(toy.tokens)[1]["stream"][1][:, [PLACES["ADJ"], PLACES["VRB"]]]
    mean = sum(float(row @ d) for row in words.flatten(0, 1)) / (2 * N)

    def change(layer, x):
        return x + (mean - x @ d)[..., None] * d if layer == 1 else x

    return lambda tokens: theirs.run(tokens, entering=change)


def test_the_direction_is_set_to_the_words_mean(case, ablation, without):
    _, setting, toy, _ = case
    logits, kept = without(toy.tokens)
    cache = ablation.cache(setting.model, toy.tokens)
    for layer in range(LAYERS + 1):
        assert (cache.x[layer] - kept["stream"][layer]).abs().max() < TIGHT
    for layer in range(LAYERS):
        assert (cache.z[layer] - kept["z"][layer]).abs().max() < TIGHT
        assert (cache.mlp[layer] - kept["mlp_out"][layer]).abs().max() < TIGHT
    projections = cache.x[1] @ ablation.direction
    assert (projections - ablation.value).abs().max() < TIGHT  # all of one value: to do it again changes nothing
    assert (logits - case[0].run(toy.tokens)[0]).abs().max() > 1e-3


def test_attribution_differences_are_sums_over_writers(case, ablation, without):
    theirs, setting, toy, _ = case
    table, pairs = attributed(setting, toy, ablation), negative_pairs(toy)
    assert not toy.positive[1::2].any() and len(pairs) == N // 2 and bool((pairs.clean == toy.tokens[1::2]).all())
    gamma, unembedding = theirs.model.transformer.ln_f.weight, theirs.model.lm_head.weight
    u = torch.stack([sum(unembedding[good] - unembedding[bad] for good, bad in own) / 2 for own in pairs.answers.tolist()])

    def shares(kept):
        """Return each component's share as folding defines it: centred, divided by the scale, times the norm's weight."""
        end = PLACES["END"]
        final = kept["stream"][LAYERS][:, end]
        sigma = (final.var(-1, correction=0) + 1e-5).sqrt()

        def share(y):
            return float((((y - y.mean(-1, keepdim=True)) / sigma[:, None] * gamma) * u).sum(-1).mean())

        found = {("lens", l, None): share(kept["stream"][l][:, end]) for l in range(LAYERS + 1)}
        for layer in range(LAYERS):
            found["attn_out", layer, None] = share(kept["attn_out"][layer][:, end])
            found["mlp_out", layer, None] = share(kept["mlp_out"][layer][:, end])
            for head in range(HEADS):
                found["head", layer, head] = share(theirs.written(layer, head, kept["z"][layer][:, end, head]))
        return found

    clean, other = (theirs.run(pairs.clean), without(pairs.clean))
    before, after = shares(clean[1]), shares(other[1])
    own = {(row.component, row.layer, None if pd.isna(row.head) else row.head): row.value for row in table.itertuples()}
    for key in before:
        # Heads are without the constant of their value biases, the same in both runs but for the scale.
        if key[0] != "head":
            assert own[key] == pytest.approx(before[key] - after[key], abs=TIGHT), key
    change = float((differences(clean[0], pairs.answers) - differences(other[0], pairs.answers)).mean())
    writers = sum(value for (component, *_), value in own.items() if component in ("attn_out", "mlp_out", "ablation"))
    assert own["lens", 0, None] + writers == pytest.approx(change, abs=TIGHT)
    assert own["lens", LAYERS, None] == pytest.approx(change, abs=TIGHT)


def test_noising_is_that_of_hooks(case, ablation, without):
    theirs, setting, toy, _ = case
    table, pairs = noised(setting, toy, ablation), negative_pairs(toy)
    plain, _ = theirs.run(pairs.clean)
    logits, other = without(pairs.clean)
    clean, ablated = (float(differences(part, pairs.answers).mean()) for part in (plain, logits))
    own = table.set_index(["component", "layer", "head", "position"])["value"]
    own.index = [tuple(None if pd.isna(part) else part for part in key) for key in own.index]

    def put(layer, value, key, where):
        def change(at_layer, own):
            if at_layer == layer:
                own[where] = value[layer][where]
            return own

        return {key: change}

    checked = 0
    for layer in range(LAYERS):
        for head in range(HEADS):
            changed = theirs.run(pairs.clean, **put(layer, other["z"], "z", np.s_[:, :, head]))[0]
            expected = (float(differences(changed, pairs.answers).mean()) - clean) / (clean - ablated)
            assert own["z", layer, head, None] == pytest.approx(expected, abs=1e-8)
            checked += abs(expected) > 1e-3
        for position in range(LENGTH):
            for name, key in (("stream", "entering"), ("attn_out", "attention"), ("mlp_out", "mlp")):
                changed = theirs.run(pairs.clean, **put(layer, other[name], key, np.s_[:, position]))[0]
                expected = (float(differences(changed, pairs.answers).mean()) - clean) / (clean - ablated)
                site = "resid_pre" if name == "stream" else name
                assert own[site, layer, None, position] == pytest.approx(expected, abs=1e-8)
    assert checked > HEADS


def test_the_ablated_run_is_beside_random_directions(case, ablation, without):
    theirs, setting, toy, axes = case
    table = ablated_circuit(setting, axes, 3, 100, 0, lambda line: None)
    runs = table[table["kind"] == "run"]
    assert {(row.direction, row.draw) for row in runs.itertuples()} == {
        ("kmeans", -1), ("das", -1), ("random", 0), ("random", 1), ("random", 2)
    }  # fmt: skip
    before = differences(theirs.run(toy.tokens)[0], toy.answers)
    after = differences(without(toy.tokens)[0], toy.answers)
    for subset, chosen in (("negative", ~toy.positive), ("positive", toy.positive), ("all", slice(None))):
        row = runs.query("direction == 'kmeans' and subset == @subset").iloc[0]
        b, a = float(before[chosen].mean()), float(after[chosen].mean())
        assert (row["ld_clean"], row["ld_ablated"]) == (pytest.approx(b, abs=TIGHT), pytest.approx(a, abs=TIGHT))
        assert row["value"] == pytest.approx((a - b) / b, abs=TIGHT) and row["n"] == (N if subset == "all" else N // 2)
    keys = ["dataset", "direction", "draw", "subset", "kind", "component", "layer", "head", "position"]
    assert not table.duplicated(keys).any()


# ---- what heads write and read --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def outputs(case):
    """Return what every head writes at every position of every prompt by hooks, centred and scaled: [n T L H d]."""
    theirs, _, toy, _ = case
    kept = theirs.run(toy.tokens)[1]
    sigma = (kept["stream"][LAYERS].var(-1, correction=0) + 1e-5).sqrt()
    layers = []
    for layer in range(LAYERS):
        heads = [theirs.written(layer, head, kept["z"][layer][:, :, head]) for head in range(HEADS)]
        layers.append(torch.stack(heads, 2))
    y = torch.stack(layers, 2)
    return (y - y.mean(-1, keepdim=True)) / sigma[..., None, None, None]


def test_class_means_and_cosines_are_those_of_single_outputs(case, outputs):
    _, setting, toy, _ = case
    means = head_outputs.class_means(Setting(setting.model, *prompts(), chunk=8), toy)
    assert means.positions == ("BOS", "ADJ", "VRB", "SUM", "END")
    for found, chosen in ((means.positive, toy.positive), (means.negative, ~toy.positive)):
        expected = outputs[chosen].mean(0)[list(PLACES.values())]  # [P L H d]
        assert (found - expected.transpose(0, 1)).abs().max() < TIGHT
    table = head_outputs.head_cosines(means, roles(), "movie")
    assert len(table) == 15  # five cells, each pair once and with itself
    neutral = outputs.mean(0)
    for row in table.itertuples():
        vectors = []
        for name in (row.a, row.b):
            node, place = name.split("@")
            layer, head = (int(part) for part in node[1:].split(".h"))
            vectors.append((outputs[toy.positive].mean(0) - neutral)[PLACES[place], layer, head])
        expected = float(vectors[0] @ vectors[1] / (vectors[0].norm() * vectors[1].norm()))
        assert row.cosine == pytest.approx(expected, abs=TIGHT)


def test_products_with_the_direction_are_means_over_prompts(case, outputs):
    _, setting, toy, axes = case
    table = head_outputs.localised(head_outputs.class_means(setting, toy), axes, "movie", N)
    assert len(table) == LAYERS * HEADS * len(PLACES) * 4
    centred = outputs - outputs.mean(0)
    for row in table.itertuples():
        d = axes.at(row.direction, row.alignment, row.layer)
        own = centred[:, PLACES[row.position], row.layer, row.head]
        expected = sum(float(y @ d) * (1 if positive else -1) for y, positive in zip(own, toy.positive, strict=True)) / N
        assert row.dot == pytest.approx(expected, abs=TIGHT)
        change = own[toy.positive].mean(0) - own[~toy.positive].mean(0)
        if row.position == "BOS":
            assert row.flip < 1e-12 and row.flip_share == 0  # before the first word there is no class
        else:
            assert row.flip == pytest.approx(float(change.norm()), abs=TIGHT)
            assert row.flip_share == pytest.approx(float(change @ d / change.norm()), abs=1e-9)


def test_gradients_are_autograd_s(case):
    theirs, setting, toy, axes = case
    found = head_outputs.answer_gradients(Setting(setting.model, *prompts(), chunk=8), toy)
    entered = {}

    def hook(module, args):
        entered["x"] = args[0].detach().requires_grad_()
        return (entered["x"], *args[1:])

    handle = theirs.blocks[1].register_forward_pre_hook(hook)
    logits = theirs.model(toy.tokens).logits[:, PLACES["END"]]
    handle.remove()
    chances = logits.log_softmax(-1)[:, ANSWERS[1]].mean()  # the negative answers, whatever the prompt
    chances.backward()
    slope = entered["x"].grad.sum(0)  # of a mean over prompts: their sum is the mean of single slopes
    for name, expected in (("ADJ", slope[2]), ("VRB", slope[4]), ("ADJ+VRB", (slope[2] + slope[4]) / 2)):
        assert (found[name] - expected).abs().max() < TIGHT
    table = head_outputs.gradients(setting, toy, roles(), axes, "movie")
    row = table.query("kind == 'log_prob' and reader == 'ADJ' and direction == 'das'").iloc[0]
    expected = torch.cosine_similarity(slope[2], axes.vectors["das"][1], 0)
    assert row["cosine"] == pytest.approx(float(expected), abs=TIGHT) and row["chance"] == pytest.approx(WIDTH**-0.5)
    assert len(table) == 2 * (3 + 2 * 4) and set(table["kind"]) == {"log_prob", "ov", "ov_answers"}


def test_what_a_head_turns_into_words_is_a_gradient(case):
    theirs, setting, _, _ = case
    layer, head, tokens = 2, 1, torch.tensor([3, 9, 30])
    block, embedding = theirs.blocks[layer], theirs.model.lm_head.weight
    v = block.attn.c_attn.weight[:, 2 * WIDTH + head * EACH : 2 * WIDTH + (head + 1) * EACH]
    normed = torch.randn(WIDTH, generator=rng(5), dtype=torch.float64, requires_grad=True)  # the stream, divided by its scale

    def mean_logit(x):
        """Return the mean logit of the tokens less that of all, through one head alone, the norms' scales being 1."""
        written = theirs.written(layer, head, (x - x.mean()) * block.ln_1.weight @ v)
        logits = embedding @ ((written - written.mean()) * theirs.model.transformer.ln_f.weight)
        return logits[tokens].mean() - logits.mean()

    (expected,) = torch.autograd.grad(mean_logit(normed), normed)
    found = head_outputs.written_towards(setting.model, layer, head, tokens)
    assert (found - expected).abs().max() < TIGHT
