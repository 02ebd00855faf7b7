"""Heads patched together, and the table of sufficiency, against transformers' GPT-2 with hooks, float64."""

import numpy as np
import pandas as pd
import pytest
import torch

import oracle
import sentiment_oracle
from recircuit.core.errors import UserError
from recircuit.core.families import load
from recircuit.core.model import at
from recircuit.experiments.sentiment.axes import Axes
from recircuit.experiments.sentiment.setting import TRAIN, Setting
from recircuit.experiments.sentiment.sufficiency import conditions, mask_of, random_cells, sufficiency
from recircuit.methods.ablation import mean_reference
from recircuit.methods.direction_hooks import frame_of
from recircuit.methods.head_patching import Runs, among_means, into_corrupted, same_before
from sentiment_oracle import (
    HEADS,
    LAYERS,
    LENGTH,
    PLACES,
    START,
    TIGHT,
    WIDTH,
    N,
    differences,
    directions,
    prompts,
    rng,
    roles,
)

case = sentiment_oracle.case


def some_cells(seed=0, share=0.4):
    return torch.rand(LAYERS, LENGTH, HEADS, generator=rng(seed)) < share


def runs_of(case, start=START):
    _, setting, toy, _ = case
    return Runs.of(setting.model, toy.pairs.clean, toy.pairs.corrupted, start)


# ---- many heads at once ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [0, START])
def test_clean_heads_in_the_corrupted_run_are_those_of_hooks(case, start):
    theirs, setting, toy, _ = case
    cells, pairs = some_cells(), toy.pairs
    clean = theirs.run(pairs.clean)[1]["z"]

    def put(layer, z):
        for position, head in cells[layer].nonzero().tolist():
            z[:, position, head] = clean[layer][:, position, head]
        return z

    expected = theirs.run(pairs.corrupted, z=put)[1]["stream"][LAYERS]
    plain = theirs.run(pairs.corrupted)[1]["stream"][LAYERS]
    found = into_corrupted(setting.model, runs_of(case, start), cells)
    assert (found - expected[:, start:]).abs().max() < TIGHT
    assert (expected - plain).abs().max() > 1e-2


@pytest.mark.parametrize("start", [0, START])
def test_heads_among_means_are_those_of_hooks(case, start):
    theirs, setting, toy, _ = case
    cells = some_cells(1)
    means = {layer: z.mean(0) for layer, z in theirs.run(toy.tokens)[1]["z"].items()}

    def put(layer, z):
        for position, head in (~cells[layer]).nonzero().tolist():
            z[:, position, head] = means[layer][position, head]
        return z

    expected = theirs.run(toy.tokens, z=put)[1]["stream"][LAYERS]
    ours = mean_reference(setting.model, toy.tokens, "position", 64).heads
    found = among_means(setting.model, runs_of(case, start), cells, ours)
    assert (found - expected[:, start:]).abs().max() < TIGHT


@pytest.mark.parametrize("base", ["resample", "mean"])
def test_along_a_plane_only_the_projection_of_the_difference_is_put_in(case, base):
    theirs, setting, toy, _ = case
    cells, pairs = some_cells(2), toy.pairs
    frames = torch.linalg.qr(torch.randn(LAYERS, WIDTH, 2, generator=rng(3), dtype=torch.float64)).Q
    clean, corrupted = (theirs.run(tokens)[1]["z"] for tokens in (pairs.clean, pairs.corrupted))
    live = {}

    def record(layer, z):
        live[layer] = z
        return z

    def rewrite(layer, out):
        """Write every head anew: one head, one position and one vector of the plane at a time."""
        total = theirs.blocks[layer].attn.c_proj.bias.expand_as(out).clone()
        for head in range(HEADS):
            own, other = (theirs.written(layer, head, z[layer][:, :, head]) for z in (clean, corrupted))
            now = theirs.written(layer, head, live[layer][:, :, head])
            mean = own.mean(0).expand_as(own)
            for position in range(LENGTH):
                inside = bool(cells[layer, position, head])
                if base == "resample":
                    start, target = (other, own) if inside else (now, now)
                else:
                    start, target = (mean, now) if inside else (mean, mean)
                change = (target - start)[:, position]
                total[:, position] += start[:, position]
                for vector in frames[layer].T:
                    total[:, position] += (change @ vector)[:, None] * vector
        return total

    tokens = pairs.corrupted if base == "resample" else pairs.clean
    expected = theirs.run(tokens, z=record, attention=rewrite)[1]["stream"][LAYERS][:, START:]
    if base == "resample":
        found = into_corrupted(setting.model, runs_of(case), cells, frames)
    else:
        means = mean_reference(setting.model, toy.tokens, "position", 64).heads
        found = among_means(setting.model, runs_of(case), cells, means, frames)
    assert (found - expected).abs().max() < TIGHT


def test_what_can_be_said_exactly(case):
    theirs, setting, toy, _ = case
    model, runs, pairs = setting.model, runs_of(case), toy.pairs
    end = pairs.end - START
    clean, corrupted = (theirs.run(tokens)[1]["stream"][LAYERS] for tokens in (pairs.clean, pairs.corrupted))
    every, whole = torch.ones(LAYERS, LENGTH, HEADS, dtype=torch.bool), torch.eye(WIDTH, dtype=torch.float64)
    nothing = torch.zeros(LAYERS, WIDTH, 1, dtype=torch.float64)
    # The last token is the same: with all heads clean its stream is, MLPs and all; and with the complement of all, none is.
    assert (at(into_corrupted(model, runs, every), end) - at(clean, pairs.end)).abs().max() < TIGHT
    assert (into_corrupted(model, runs, ~every) - corrupted[:, START:]).abs().max() < TIGHT
    at_end = every & (torch.arange(LENGTH) == PLACES["END"])[:, None]
    assert (at(into_corrupted(model, runs, at_end), end) - at(clean, pairs.end)).abs().max() < TIGHT
    means = mean_reference(model, toy.tokens, "position", 64).heads
    assert (among_means(model, runs, every, means) - clean[:, START:]).abs().max() < TIGHT
    # A whole space restricts nothing. An empty one leaves both runs' own outputs: cells write what the plain run has.
    cells, stacked = some_cells(4), whole.expand(LAYERS, -1, -1)
    assert (into_corrupted(model, runs, cells, stacked) - into_corrupted(model, runs, cells)).abs().max() < TIGHT
    assert (among_means(model, runs, cells, means, nothing) - among_means(model, runs, ~every, means)).abs().max() < TIGHT
    assert (into_corrupted(model, runs, every, nothing) - corrupted[:, START:]).abs().max() < TIGHT
    # Patching a run with itself changes nothing.
    same = Runs.of(model, pairs.corrupted, pairs.corrupted, START)
    assert (into_corrupted(model, same, cells) - corrupted[:, START:]).abs().max() < TIGHT


def test_all_heads_at_the_end_restore_other_families_too(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        oracle.exact_norms_and_angles(patch)
        theirs = oracle.random_neox().requires_grad_(requires_grad=False)
        model = load(oracle.save(theirs, tmp_path), dtype=torch.float64)  # attention and MLP in parallel, rotated keys
        pairs = Setting(model, *prompts(), chunk=64).toy(*TRAIN).pairs
        runs = Runs.of(model, pairs.clean, pairs.corrupted, START)
        cells = torch.zeros(model.spec.n_layers, LENGTH, model.spec.n_heads, dtype=torch.bool)
        cells[:, PLACES["END"]] = True
        found = at(into_corrupted(model, runs, cells), pairs.end - START)
        assert (found - at(runs.of_clean.x[-1], pairs.end)).abs().max() < TIGHT
        logits = theirs(pairs.clean).logits[:, PLACES["END"]]
        norm = theirs.gpt_neox.final_layer_norm
        assert (norm(found) @ theirs.get_output_embeddings().weight.T - logits).abs().max() < 1e-9


def test_prompts_begin_alike_up_to_the_first_difference():
    tokens = torch.tensor([[5, 6, 7, 8], [5, 6, 9, 8]])
    assert same_before(tokens) == 2 and same_before(tokens[:1]) == 3 and same_before(tokens[:, 2:]) == 0


# ---- sufficiency ----------------------------------------------------------------------------------------------------


def test_cells_are_at_their_positions_or_everywhere(case):
    _, setting, toy, _ = case
    cells = [(0, 1, "ADJ"), (0, 1, "VRB"), (2, 3, "END"), (1, 0, "ALL")]
    mask = mask_of(cells, toy, setting.model.spec, everywhere=False)
    expected = {(0, 2, 1), (0, 4, 1), (2, 7, 3)} | {(1, position, 0) for position in range(LENGTH)}
    assert {tuple(cell) for cell in mask.nonzero().tolist()} == expected
    every = mask_of(cells, toy, setting.model.spec, everywhere=True)
    assert every.any(1).nonzero().tolist() == [[0, 1], [1, 0], [2, 3]] and bool((every.all(1) == every.any(1)).all())
    with pytest.raises(UserError, match="no position 'SIM'"):
        mask_of([(0, 0, "SIM")], toy, setting.model.spec, everywhere=False)


def test_random_circuits_have_the_circuit_s_shape(case):
    spec, cells = case[1].model.spec, [(0, 1, "ADJ"), (0, 1, "VRB"), (0, 2, "SUM"), (2, 0, "END"), (2, 3, "END")]
    seen = set()
    for draw in range(30):
        drawn = random_cells(cells, spec, "random", np.random.default_rng(draw))
        assert [name for *_, name in drawn] == [name for *_, name in cells]
        assert len({cell[:2] for cell in drawn}) == 4 and drawn[0][:2] == drawn[1][:2]  # a head keeps its two positions
        seen |= {cell[:2] for cell in drawn}
        layers = random_cells(cells, spec, "random_layers", np.random.default_rng(draw))
        assert [cell[0] for cell in layers] == [cell[0] for cell in cells] and len({cell[:2] for cell in layers}) == 4
    assert seen == {(layer, head) for layer in range(LAYERS) for head in range(HEADS)}


@pytest.fixture(scope="module")
def tables(case):
    _, setting, _, axes = case
    return {name: sufficiency(setting, name, roles(), axes, 100, 0, lambda line: None) for name in ("movie", "circuit")}


def value_of(table, **wanted):
    wanted = {"direction": "none", "draw": 0} | wanted
    rows = table[(table[list(wanted)] == pd.Series(wanted)).all(axis=1)]
    assert len(rows) == 1
    return rows.iloc[0]


def test_sufficiency_is_what_hooks_and_plain_sums_give(case, tables):
    theirs, _, toy, _ = case
    pairs, table = toy.pairs, tables["movie"]
    plain = {name: theirs.run(tokens) for name, tokens in (("clean", pairs.clean), ("corrupted", pairs.corrupted))}
    clean, corrupted = (differences(plain[name][0], pairs.answers) for name in ("clean", "corrupted"))
    z = plain["clean"][1]["z"]
    cells = {(row.layer, row.head, PLACES[row.position]) for row in roles().itertuples()}
    heads = {(layer, head) for layer, head, _ in cells}

    def restored(chosen, mean):
        def put(layer, own):
            for head in range(HEADS):
                for position in range(LENGTH):
                    inside = chosen(layer, head, position)
                    if mean and not inside:
                        own[:, position, head] = z[layer][:, position, head].mean(0)
                    elif inside and not mean:
                        own[:, position, head] = z[layer][:, position, head]
            return own

        return differences(theirs.run(pairs.clean if mean else pairs.corrupted, z=put)[0], pairs.answers)

    sets = {
        ("circuit", "all"): lambda l, h, p: (l, h) in heads,
        ("circuit", "pos"): lambda l, h, p: (l, h, p) in cells,
        ("complement", "all"): lambda l, h, p: (l, h) not in heads,
        ("complement", "pos"): lambda l, h, p: (l, h, p) not in cells,
        ("none", "all"): lambda l, h, p: False,
        ("all", "all"): lambda l, h, p: True,
    }
    signs = torch.where(toy.positive, 1.0, -1.0).double()
    for base in ("resample", "mean"):
        floor = restored(sets["none", "all"], base == "mean")
        for (node_set, restriction), chosen in sets.items():
            ld = restored(chosen, base == "mean")
            key = {"node_set": node_set, "restriction": restriction, "base": base}
            row = value_of(table, metric="denoising", **key)
            assert row["value"] == pytest.approx(float(100 * (ld - floor).sum() / (clean - floor).sum()), abs=1e-7)
            assert row["mean_ld"] == pytest.approx(float(ld.mean()), abs=TIGHT) and row["n"] == N
            sign = 1 if clean.mean() > 0 else -1
            hits = sum(bool(value * sign > 0) for value in ld)
            assert value_of(table, metric="flips", **key)["value"] == 100 * hits / N
            centred = ld - signs * (signs * ld).mean()
            hits = sum(bool(value * sign > 1e-5 * clean.abs().mean()) for value in centred)
            assert value_of(table, metric="flips_centred", **key)["value"] == 100 * hits / N
    assert (restored(sets["none", "all"], mean=False) - corrupted).abs().max() < TIGHT


def test_sufficiency_s_ends_and_sizes(tables):
    for table in tables.values():
        chosen = table[table["metric"] == "denoising"]
        for base in ("resample", "mean"):
            for node_set, expected, n_heads in (("none", 0, 0), ("all", 100, LAYERS * HEADS)):
                row = value_of(chosen, node_set=node_set, restriction="all", base=base)
                assert row["value"] == pytest.approx(expected, abs=1e-8) and row["n_heads"] == n_heads
            assert value_of(chosen, node_set="none", restriction="all", base="mean")["mean_ld"] == pytest.approx(0, abs=TIGHT)
            row = value_of(chosen, node_set="circuit", restriction="pos", base=base)
            assert (row["n_heads"], row["n_cells"]) == (4, 5)
            assert row["ci_lo"] <= row["value"] <= row["ci_hi"]
            rest = value_of(chosen, node_set="complement", restriction="pos", base=base)
            assert rest["n_cells"] == LAYERS * HEADS * LENGTH - 5
        keys = ["node_set", "restriction", "direction", "alignment", "base", "metric", "draw"]
        assert not table.duplicated(keys).any() and not table.drop(columns="p_value").isna().any().any()


def test_p_values_count_random_circuits_that_do_as_well(tables):
    table = tables["movie"]
    known = table[table["p_value"].notna()]
    assert set(known["node_set"]) == {"circuit"} and set(known["restriction"]) == {"all", "pos"} and len(known) == 12
    for row in known.itertuples():
        drawn = table.query(
            "node_set == 'random' and restriction == @row.restriction and base == @row.base and metric == @row.metric"
        )
        assert len(drawn) == 20 and row.p_value == pytest.approx((1 + sum(v >= row.value for v in drawn["value"])) / 21)


def test_every_direction_restricts_every_set(case):
    _, setting, toy, axes = case
    found = list(conditions([(0, 1, "ADJ")], toy, setting.model.spec, axes.frames(), 0))
    limits = {(one.node_set, one.restriction, one.direction, one.alignment) for one in found if one.direction != "none"}
    kinds = {("kmeans+das", "first"), ("kmeans", "matched"), ("das", "matched"), ("random", "first")}
    sets = {("all", "dir"), *((name, limit) for name in ("circuit", "complement") for limit in ("dir", "pos+dir"))}
    assert limits == {(*one, *kind) for one in sets for kind in kinds}
    for one in found:
        if one.frames is not None:
            gram = one.frames.mT @ one.frames
            assert (gram - torch.eye(gram.shape[-1], dtype=gram.dtype)).abs().max() < 1e-6


def test_axes_are_of_the_layer_that_a_head_writes_to(case):
    axes, table = case[3], directions()

    def unit(method, layer):
        vector = table[(table["method"] == method) & (table["layer"] == layer)]["vector"].iloc[0].astype(float)
        return torch.from_numpy(vector / np.linalg.norm(vector))

    for layer in range(LAYERS):
        assert (axes.at("kmeans", "matched", layer) - unit("kmeans", layer + 1)).abs().max() < 1e-6
        assert (axes.at("das", "matched", layer) - unit("das", min(layer + 1, LAYERS - 1))).abs().max() < 1e-6
        assert (axes.at("das", "first", layer) - unit("das", 1)).abs().max() < 1e-6
    plane = axes.frames()["kmeans+das", "first"][2]
    for method in ("kmeans", "das"):
        assert (plane @ (plane.T @ unit(method, 1)) - unit(method, 1)).abs().max() < 1e-6
    with pytest.raises(UserError, match="none by 'das' for layer 1"):
        Axes.of(case[1].model, table[table["method"] == "kmeans"])


def test_a_frame_of_one_vector_is_that_vector(case):
    axes = case[3]
    for (direction, alignment), frames in axes.frames().items():
        if direction in ("kmeans", "das"):
            stack = axes.stack(direction, alignment)
            assert all((frame - frame_of(vector)).abs().max() < 1e-6 for frame, vector in zip(frames, stack, strict=True))
