"""The tables of the circuit against transformers' GPT-2 with hooks, its roles by hand, pictures that say what tables do."""

import numpy as np
import pandas as pd
import pytest
import torch

from recircuit.core.tokenizer import Tokenizer, word_level
from recircuit.experiments.sentiment import roles
from recircuit.experiments.sentiment.circuit import (
    activation_table,
    attention_table,
    attribution_table,
    datasets,
    scatter_table,
    token_labels,
)
from recircuit.experiments.sentiment.circuit_paths import path_tables
from recircuit.figures.sentiment import circuit_attribution, circuit_patching
from recircuit.figures.style import plt
from recircuit.study.tables import read_table, write_table
from sentiment_oracle import HEADS, LAYERS, LENGTH, PLACES, START, N, differences, prompts, small_setting

CLOSE = 1e-9
TOKENIZER = Tokenizer(word_level([f"w{i}" for i in range(1, 50)]), "here")
END, ADJ = PLACES["END"], PLACES["ADJ"]


def quiet(line):
    pass


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    theirs, setting = small_setting(tmp_path_factory.mktemp("gpt2"))
    return theirs, setting, datasets(setting)["movie"]


def kept(frame, name, tmp_path):
    """Return a table as it is written and read again."""
    write_table(frame.assign(model="tiny"), tmp_path / "table.parquet", name, {})
    return read_table(tmp_path / "table.parquet", name)


def means(case, **changes):
    """Return the mean logit differences of clean, corrupted and a changed corrupted run, by the clean prompts' answers."""
    theirs, _, toy = case
    runs = (theirs.run(toy.tokens), theirs.run(toy.tokens[toy.twin]), theirs.run(toy.tokens[toy.twin], **changes))
    return [float(differences(logits, toy.answers).mean()) for logits, _ in runs]


# ---- activation patching --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def patched(case):
    return activation_table(case[1], TOKENIZER, 50, 0, quiet)


def test_activations_are_percentages_of_hooked_runs(case, patched, tmp_path):
    theirs, _, toy = case
    clean = theirs.run(toy.tokens)[1]

    def head(layer, z):
        z[:, :, 2] = clean["z"][1][:, :, 2] if layer == 1 else z[:, :, 2]
        return z

    def cell(layer, z):
        z[:, 4, 2] = clean["z"][1][:, 4, 2] if layer == 1 else z[:, 4, 2]
        return z

    def place(name):
        def change(layer, x):
            if layer == 1:
                x[:, 4] = clean[name][1][:, 4]
            return x

        return change

    table = kept(patched, "se_act_patching", tmp_path)
    changes = {
        "component == 'z' and head == 2": {"z": head},
        "component == 'z_position' and head == 2 and position == 4": {"z": cell},
        "component == 'attn_out' and position == 4": {"attention": place("attn_out")},
        "component == 'mlp_out' and position == 4": {"mlp": place("mlp_out")},
        "component == 'resid_pre' and position == 4": {"entering": place("stream")},
    }
    for query, change in changes.items():
        good, bad, new = means(case, **change)
        row = table.query(f"dataset == 'movie' and layer == 1 and {query}").iloc[0]
        assert row["value"] == pytest.approx(100 * (new - bad) / (good - bad), abs=1e-7)
        assert row["ld_patched"] == pytest.approx(new, abs=CLOSE) and abs(new - bad) > 1e-4
        assert row["ci_lo"] <= row["value"] <= row["ci_hi"] and row["n"] == N


def test_every_cell_is_there_once_and_says_its_token(case, patched):
    movie = patched[patched["dataset"] == "movie"]
    counts = movie.groupby("component").size().to_dict()
    cells = {"z_position": LAYERS * HEADS * LENGTH}
    assert counts == cells | dict.fromkeys(("z", "q", "k", "v", "pattern"), LAYERS * HEADS) | dict.fromkeys(
        ("resid_pre", "attn_out", "mlp_out"), LAYERS * LENGTH
    )
    assert "z_position" not in set(patched.loc[patched["dataset"] != "movie", "component"])
    first = movie[(movie["component"] == "resid_pre") & (movie["layer"] == 0)].set_index("position")
    assert first.loc[ADJ, "token"] == "ADJ" and first.loc[PLACES["VRB"], "token"] == "VRB"
    word = TOKENIZER.decode([int(case[2].tokens[0, 1])])[0]
    assert first.loc[1, "token"] == word and (first.loc[: START - 1, "value"] == 0).all()
    # The stream's two words are all that differs: with interaction they need not add up, without any other they are 100 %.
    assert first["value"].abs().idxmax() in (ADJ, PLACES["VRB"])
    assert set(patched["dataset"]) == {"movie", "circuit"} and set(patched["convention"]) == {"denoising"}


def test_the_beginning_of_a_text_is_called_bos(case):
    tokenizer = Tokenizer(word_level([f"w{i}" for i in range(1, 50)]), "here")
    tokens = case[2].tokens.clone()
    tokens[:, 0] = tokenizer.bos
    toy = datasets(case[1])["movie"].__class__(**vars(case[2]) | {"tokens": tokens})
    assert token_labels(tokenizer, toy)[0] == "BOS"


# ---- paths and roles ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def paths(case):
    return path_tables(case[1], TOKENIZER, "tiny", 50, 0, quiet)


def test_paths_to_the_final_stream_are_fractions_of_frozen_runs(case, paths, tmp_path):
    theirs, _, toy = case
    clean, corrupted = (theirs.run(tokens)[1]["z"] for tokens in (toy.tokens, toy.tokens[toy.twin]))
    table = kept(paths[0], "se_path_patching", tmp_path)
    final = table[(table["dataset"] == "movie") & (table["receivers"] == "final")]
    assert len(final) == LAYERS * HEADS and final["sender_position"].isna().all()
    good, bad, _ = means(case)
    for layer, head in ((0, 1), (1, 3), (2, 0)):

        def frozen(other, z, layer=layer, head=head):
            z = clean[other].clone()
            if other == layer:
                z[:, :, head] = corrupted[other][:, :, head]
            return z

        new = float(differences(theirs.run(toy.tokens, z=frozen)[0], toy.answers).mean())
        row = final[(final["sender_layer"] == layer) & (final["sender_head"] == head)].iloc[0]
        assert row["value"] == pytest.approx((new - good) / (good - bad), abs=CLOSE)
        assert row["ci_lo"] <= row["value"] <= row["ci_hi"] and abs(row["value"]) > 1e-5


def test_the_roles_are_those_of_the_rule(case, paths, tmp_path):
    table, circuit = paths[0], kept(paths[1], "se_circuit", tmp_path)
    movie = table[table["dataset"] == "movie"]
    final = movie[movie["receivers"] == "final"].set_index(["sender_layer", "sender_head"])["value"]
    direct = final[final < 0].nsmallest(4)
    found = circuit[circuit["role"] == "direct"].sort_values("score")
    assert list(zip(found["layer"], found["head"], strict=True)) == list(direct.index)
    assert found["score"].tolist() == pytest.approx(direct.tolist()) and set(found["position"]) == {"END"}
    with torch.no_grad():
        attentions = case[0].model(case[2].tokens, output_attentions=True).attentions
    seen = {(l, h): float(attentions[l][:, h, END, PLACES["SUM"]].mean()) for l in range(LAYERS) for h in range(HEADS)}
    product = pd.Series({head: final[head] * seen[head] for head in seen})
    middle = product[product < 0].nsmallest(3)
    found = circuit[circuit["role"] == "intermediate"].sort_values("score")
    assert list(zip(found["layer"], found["head"], strict=True)) == list(middle.index)
    receivers = roles.values_of(middle.index)
    from_sum = movie[(movie["receivers"] == receivers) & (movie["sender_position"] == PLACES["SUM"])]
    best = from_sum.nsmallest(1, "value").iloc[0]
    mapping = circuit[circuit["role"] == "mapping"].nsmallest(1, "score").iloc[0]
    assert (mapping["layer"], mapping["head"], mapping["position"]) == (best["sender_layer"], best["sender_head"], "SUM")
    first = circuit[circuit["role"] == "tokenizer"]
    assert set(first["layer"]) == {0} and set(first["position"]) == {"ADJ", "VRB"} and first["head"].nunique() == 1
    assert set(circuit["source"]) == {"rule"} and set(circuit["dataset"]) == {"movie"}
    # The other set of the same template has the same receivers.
    assert set(movie["receivers"]) == set(table.loc[table["dataset"] == "circuit", "receivers"])
    by_position = movie.groupby("receivers")["sender_position"].nunique()
    assert by_position[receivers] == END - START + 1 and by_position["final"] == 0


def test_the_published_circuit_is_that_of_the_data_file():
    table = roles.role_table("gpt2-small", "movie", {(10, 4): -0.28}, None, {}, {}, ["ADJ", "VRB", "SUM", "END"])
    heads = [(0, 4), (6, 4), (7, 1), (7, 5), (8, 5), (9, 2), (9, 10), (10, 1), (10, 4), (11, 9)]
    assert roles.heads_of(table) == heads and roles.heads_of(table, dataset="circuit") == heads
    assert roles.heads_of(table, "direct") == [(7, 1), (9, 2), (10, 1), (10, 4), (11, 9)]
    assert len(roles.places_of(table)) == 12 and (7, 1, "SUM") in roles.places_of(table)
    assert set(table["source"]) == {"published"} and table["score"].min() == -0.28
    sets = roles.receiver_sets("gpt2-small", "movie_full", {}, None)
    assert [roles.values_of(heads) for heads in sets.values()] == [
        "v: 7.1, 10.1, 10.4, 11.9", "v: 8.5, 9.2, 9.10", "v: 7.1, 9.2, 10.1, 10.4", "v: 7.1, 7.5, 9.2",
    ]  # fmt: skip
    assert roles.scatter_heads("gpt2-small", "movie", table) == [(7, 1), (9, 2), (10, 1), (10, 4)]
    assert len(roles.pattern_heads("gpt2-small", "circuit", {})) == 15
    larger = roles.role_table("pythia-1.4b", "classification", {}, None, {}, {}, [])
    assert roles.heads_of(larger, dataset="classification") == [(6, 11), (11, 1), (13, 13), (18, 2), (21, 0)]


def test_names_of_receivers_are_read_back():
    assert roles.heads_in(roles.values_of([(10, 4), (7, 11), (7, 2)])) == [(7, 2), (7, 11), (10, 4)]
    assert roles.heads_in(roles.FINAL) == []


def test_heads_that_do_not_help_have_no_role():
    scores = {(0, 0): -0.2, (0, 1): 0.5, (1, 0): 0.0, (1, 1): -0.3}
    assert roles.lowest(scores, 4) == [(1, 1), (0, 0)]
    assert roles.receiver_sets("tiny", "classification", scores, None) == {"direct": [(1, 1), (0, 0)]}
    seen = {(0, 0): 0.9, (0, 1): 1.0, (1, 0): 1.0, (1, 1): 0.1}
    assert roles.receiver_sets("tiny", "movie", scores, seen)["intermediate"] == [(0, 0), (1, 1)]
    table = roles.role_table("tiny", "classification", scores, None, {}, {(0, 1): -1.0, (1, 0): -2.0}, ["ADJ1", "END"])
    assert [tuple(row) for row in table[["role", "layer", "head", "position"]].to_numpy()] == [
        ("tokenizer", 0, 1, "ALL"), ("direct", 1, 1, "END"), ("direct", 0, 0, "END"),
    ]  # fmt: skip
    assert roles.pattern_heads("tiny", "movie", scores) == sorted(scores)


# ---- attribution, attention, scatter --------------------------------------------------------------------------------


def test_shares_add_up_to_the_logit_difference(case, tmp_path):
    table = kept(attribution_table(case[1], quiet), "se_dla", tmp_path)
    movie = table[table["dataset"] == "movie"]
    good = means(case)[0]
    assert movie.loc[movie["kind"] == "layer", "value"].sum() == pytest.approx(good, abs=CLOSE)
    lens = movie[movie["kind"] == "lens"].set_index("label")["value"]
    assert list(lens.index) == sorted(f"x={i / 2}" for i in range(2 * LAYERS + 1))
    assert lens[f"x={float(LAYERS)}"] == pytest.approx(good, abs=CLOSE)
    layers = movie[movie["kind"] == "layer"].set_index("label")["value"]
    assert lens["x=1.5"] - lens["x=1.0"] == pytest.approx(layers["1_attn_out"], abs=CLOSE)
    assert lens["x=2.0"] - lens["x=1.5"] == pytest.approx(layers["1_mlp_out"], abs=CLOSE)
    assert lens["x=0.0"] == pytest.approx(layers["embed"] + layers["pos_embed"], abs=CLOSE)
    heads = movie[movie["kind"] == "head"]
    assert len(heads) == LAYERS * HEADS and heads.iloc[-1]["label"] == f"L{LAYERS - 1}H{HEADS - 1}"


def test_attention_is_the_mean_over_prompts(case, patched, tmp_path):
    table = kept(attention_table(case[1], TOKENIZER, "tiny", patched), "se_attention", tmp_path)
    with torch.no_grad():
        attentions = torch.stack(case[0].model(case[2].tokens, output_attentions=True).attentions).mean(1)  # [L H T T]
    movie = table[table["dataset"] == "movie"]
    for row in movie.itertuples():
        assert row.prob == pytest.approx(float(attentions[row.layer, row.head, row.q, row.k]), abs=1e-12)
    assert len(movie) == LAYERS * HEADS * LENGTH * (LENGTH + 1) // 2  # fewer than fifteen heads: all of them whole
    assert set(movie.loc[movie["k"] == ADJ, "k_token"]) == {"ADJ"} and set(movie.loc[movie["q"] == ADJ, "q_token"]) == {"ADJ"}


def test_other_heads_are_kept_from_end_alone(case, patched, monkeypatch):
    monkeypatch.setattr(roles, "N_PATTERNS", 2)
    table = attention_table(case[1], TOKENIZER, "tiny", patched)
    movie = table[table["dataset"] == "movie"]
    whole = movie.groupby(["layer", "head"])["q"].nunique()
    z = patched[(patched["dataset"] == "movie") & (patched["component"] == "z")].set_index(["layer", "head"])["value"]
    assert set(whole.index[whole > 1]) == set(z.abs().nlargest(2).index)
    assert (movie[movie["q"] == END].groupby(["layer", "head"])["prob"].sum() - 1).abs().max() < 1e-12


def test_the_scatter_s_points_are_attention_and_the_head_s_share(case, paths, tmp_path):
    table = kept(scatter_table(case[1], "tiny", paths[1]), "se_head_scatter", tmp_path)
    movie = table[table["dataset"] == "movie"]
    heads = set(zip(movie["layer"], movie["head"], strict=True))
    assert heads == set(roles.heads_of(paths[1], "direct")) and len(movie) == len(heads) * N
    with torch.no_grad():
        attentions = case[0].model(case[2].tokens, output_attentions=True).attentions
    shares = attribution_table(case[1], quiet).query("dataset == 'movie' and kind == 'head'").set_index(["layer", "head"])
    for head, rows in movie.groupby(["layer", "head"]):
        expected = attentions[head[0]][:, head[1], END, ADJ]
        assert np.abs(rows.sort_values("prompt_id")["attention"].to_numpy() - expected.numpy()).max() < 1e-12
        assert rows["dot_difference"].mean() == pytest.approx(shares.loc[head, "value"], abs=CLOSE)
    assert (movie.groupby("prompt_id")["label"].first() == case[2].positive.numpy()).all()


# ---- pictures -------------------------------------------------------------------------------------------------------


@pytest.fixture
def tables(case, patched, paths):
    """Tables of the tiny model, on two more data sets under their names."""
    dla, attention = attribution_table(case[1], quiet), attention_table(case[1], TOKENIZER, "tiny", patched)
    scatter = scatter_table(case[1], "tiny", paths[1])
    found = {"se_act_patching": patched, "se_path_patching": paths[0], "se_circuit": paths[1]}
    found |= {"se_dla": dla, "se_attention": attention, "se_head_scatter": scatter}
    twins = {
        name: pd.concat([table, table[table["dataset"] == "movie"].assign(dataset="classification")])
        for name, table in found.items()
    }
    yield twins | {"se_positions": prompts()[1]}
    plt.close("all")


@pytest.mark.parametrize("file", circuit_patching.ITEMS)
def test_every_map_is_drawn(tables, file):
    figure = circuit_patching.circuit_item(file, tables, "title")
    assert figure.get_suptitle().startswith("title")
    figure.canvas.draw()


@pytest.mark.parametrize("file", circuit_attribution.ITEMS)
def test_every_attribution_is_drawn(tables, file):
    figure = circuit_attribution.attribution_item(file, tables, "title")
    assert figure.get_suptitle().startswith("title")
    figure.canvas.draw()


def image_of(axes):
    return np.asarray(axes.images[0].get_array())


def test_maps_have_layers_down_and_red_below_zero(tables):
    figure = circuit_patching.circuit_item("a11-head-patching", tables, "title")
    z = tables["se_act_patching"].query("dataset == 'movie' and component == 'z'").set_index(["layer", "head"])["value"]
    axes = next(axes for axes in figure.axes if axes.get_title() == "output z")
    shown = image_of(axes)
    assert shown.shape == (LAYERS, HEADS) and shown[2, 1] == pytest.approx(z[2, 1])
    low, high = axes.images[0].get_clim()
    assert low == -high == -z.abs().max()
    red, _, blue, _ = axes.images[0].to_rgba(np.array([[low]]))[0, 0]
    assert red > 0.3 > blue
    assert axes.images[0].get_extent()[2] > axes.images[0].get_extent()[3]  # the first layer on top
    frames = {(round(p.get_y() + 0.44), round(p.get_x() + 0.44)) for p in axes.patches}
    assert frames == set(roles.heads_of(tables["se_circuit"]))


def test_positions_are_labelled_by_their_tokens(tables):
    figure = circuit_patching.circuit_item("a12-position-patching", tables, "title")
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert len(labels) == LENGTH and labels[ADJ] == f"ADJ {ADJ}"
    rows = tables["se_act_patching"].query("dataset == 'movie' and component == 'mlp_out' and layer == 1 and position == 4")
    axes = next(axes for axes in figure.axes if axes.get_title() == "MLP output")
    assert image_of(axes)[1, 4] == pytest.approx(rows["value"].iloc[0])


def test_heads_at_positions_are_the_most_moving_ones(tables, monkeypatch):
    monkeypatch.setattr(circuit_patching, "SHOWN", 3)
    figure = circuit_patching.circuit_item("x36-heads-by-position", tables, "title")
    rows = tables["se_act_patching"].query("dataset == 'movie' and component == 'z_position'")
    largest = rows.groupby(["layer", "head"])["value"].agg(lambda values: values.abs().max()).nlargest(3).index
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == [f"{layer}.{head}" for layer, head in sorted(largest)]
    first = rows.set_index(["layer", "head", "position"])["value"].sort_index()
    expected = first.loc[sorted(largest)[0]]
    assert image_of(figure.axes[0])[0] == pytest.approx(expected.to_numpy(float))
    assert figure.axes[0].get_xticklabels()[ADJ].get_text() == f"ADJ {ADJ}"


def test_bars_are_the_most_negative_paths(tables, monkeypatch):
    monkeypatch.setattr(circuit_patching, "SHOWN", 5)
    figure = circuit_patching.circuit_item("a13-paths-to-logits", tables, "title")
    final = tables["se_path_patching"].query("dataset == 'movie' and receivers == 'final'").sort_values("value")
    bars = figure.axes[1]
    widths = [patch.get_width() for patch in bars.patches]
    assert widths == pytest.approx((100 * final["value"]).tolist()[:5]) and bars.yaxis_inverted()
    first = final.iloc[0]
    assert bars.get_yticklabels()[0].get_text() == f"{first['sender_layer']}.{first['sender_head']}"


def test_maps_of_paths_to_values_stop_below_the_receivers(tables):
    figure = circuit_patching.circuit_item("a14-paths-to-values", tables, "title")
    movie = tables["se_path_patching"].query("dataset == 'movie'")
    for axes in (axes for axes in figure.axes if axes.get_title().startswith("from")):
        source, _, names = axes.get_title().partition("\nto values of ")
        rows = movie[movie["receivers"] == f"v: {names}"]
        rows = rows[rows["sender_position"].isna() if "all" in source else rows["sender_position"] == PLACES["SUM"]]
        top = max(layer for layer, _ in roles.heads_in(f"v: {names}"))
        wide = rows.pivot(index="sender_layer", columns="sender_head", values="value")
        assert np.abs(image_of(axes) - 100 * wide.to_numpy()[:top]).max() < 1e-12


@pytest.mark.parametrize("file", ["a14-paths-to-values", "a15-paths-by-position"])
def test_receivers_that_hear_nobody_are_said_to(tables, file):
    rows = tables["se_path_patching"]
    deaf = rows.assign(receivers=rows["receivers"].where(rows["receivers"] == "final", "v: 0.1, 0.3"))
    figure = circuit_patching.circuit_item(file, tables | {"se_path_patching": deaf}, "title")
    assert "no head's output reaches" in figure.axes[0].texts[0].get_text()


def test_a_circuit_without_direct_heads_is_scattered_whole(case, paths):
    named = paths[1].assign(role="circuit")
    assert roles.scatter_heads("tiny", "movie", named) == roles.heads_of(paths[1])
    assert set(scatter_table(case[1], "tiny", named)["dataset"]) == {"movie", "circuit"}


def test_the_lens_goes_up_the_stream_and_writers_stand_in_its_order(tables):
    figure = circuit_attribution.attribution_item("a16-attribution", tables, "title")
    lens, writers, heads = figure.axes[:3]
    x, y = lens.lines[0].get_data()
    dla = tables["se_dla"].query("dataset == 'movie'").set_index("label")["value"]
    assert list(x) == [i / 2 for i in range(2 * LAYERS + 1)] and y[3] == dla["x=1.5"]
    names = [label.get_text() for label in writers.get_xticklabels()]
    assert names == ["embed", "position", *(f"{l} {part}" for l in range(LAYERS) for part in ("attn", "mlp"))]
    assert writers.lines[0].get_ydata()[3] == dla["0_mlp_out"]
    assert image_of(heads)[1, 2] == dla["L1H2"]


def test_points_are_blue_for_positive_prompts(tables):
    figure = circuit_attribution.attribution_item("a19-attention-and-output", tables, "title")
    head = tuple(map(int, figure.axes[0].get_title().split(".")))
    rows = tables["se_head_scatter"].query("dataset == 'movie'").set_index(["layer", "head"]).loc[head]
    positive, negative = figure.axes[0].collections[:2]
    assert np.abs(positive.get_offsets()[:, 1] - rows.loc[rows["label"] == 1, "dot"]).max() < 1e-12
    assert len(negative.get_offsets()) == (rows["label"] == 0).sum()
    red, _, blue, _ = positive.get_facecolor()[0]
    assert blue > red
