"""Pictures of the circuit: boxes and arrows of the schematic, bars, tables and heat-maps hold what their tables say."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from recircuit.figures.sentiment import ablated_circuit, circuit_maps, head_outputs, schematic, sufficiency
from recircuit.figures.style import plt
from recircuit.tasks.corpus import word_data

PATHS = ["dataset", "sender_layer", "sender_head", "sender_position", "receivers", "value"]


@pytest.fixture(autouse=True)
def closed():
    """Leave no figure open."""
    yield
    plt.close("all")


def published():
    listed = word_data("sentiment/circuit_heads")["gpt2-small"]["movie"]["roles"]
    rows = [(role, layer, head, place) for role, heads in listed.items() for layer, head, places in heads for place in places]
    return circuit(rows, "published")


def circuit(rows, source="rule"):
    frame = pd.DataFrame(rows, columns=["role", "layer", "head", "position"])
    return frame.assign(dataset="movie", source=source, score=-0.01 * frame["head"])


def crowded():
    """Return a circuit of a model of four layers, whose heads share layers and tokens."""
    rows = [("tokenizer", 0, 1, "ADJ"), ("tokenizer", 0, 1, "VRB"), ("mapping", 0, 2, "SUM"), ("mapping", 1, 1, "SUM")]
    rows += [("intermediate", 2, head, "END") for head in range(4)] + [("direct", layer, 3, "END") for layer in (0, 1, 2, 3)]
    return circuit(rows)


def paths(layers=12, heads=12):
    rows = [("movie", l, h, None, "final", -0.1 * l - 0.01 * h) for l in range(layers) for h in range(heads)]
    return pd.DataFrame(rows, columns=PATHS).astype({"sender_position": "Int16"})


# ---- schematic ------------------------------------------------------------------------------------------------------


def overlap(a, b):
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@pytest.mark.parametrize("make", [published, crowded])
def test_nothing_in_the_schematic_overlaps(make):
    figure = schematic.schematic(make(), paths(), "t")
    axes = figure.axes[0]
    patches = [patch for patch in axes.patches if isinstance(patch, FancyBboxPatch)]
    frames = [p.get_path().get_extents() for p in patches if p.get_linestyle() == "--"]
    boxes = [p.get_path().get_extents() for p in patches if p.get_linestyle() != "--"]
    corners = [[(box.x0, box.y0, box.x1, box.y1) for box in group] for group in (frames, boxes)]
    for group in corners:
        assert len(group) >= 5 and not any(overlap(a, b) for a, b in combinations(group, 2))
    # Every head is inside one frame, and the tokens and the logits in none.
    inside = [sum(f[0] <= b[0] and f[1] <= b[1] and f[2] >= b[2] and f[3] >= b[3] for f in corners[0]) for b in corners[1]]
    assert inside.count(1) == len(make()) and inside.count(0) == 5
    figure.canvas.draw()
    limits = axes.get_window_extent()
    texts = [text.get_window_extent() for text in axes.texts]
    assert all(text.x0 >= limits.x0 - 1 and text.x1 <= limits.x1 + 1 for text in texts)
    assert not any(a.overlaps(b) for a, b in combinations(texts, 2))


def test_a_word_s_text_fits_its_box():
    figure = schematic.schematic(published(), paths(), "t")
    figure.canvas.draw()
    boxes = [p.get_window_extent() for p in figure.axes[0].patches if isinstance(p, FancyBboxPatch)]
    named = {text.get_text(): text.get_window_extent() for text in figure.axes[0].texts}
    for word in ("adjective", "verb", "is", "logit difference", "10.4", "9.10"):
        text = named[word]
        assert any(b.x0 <= text.x0 and b.x1 >= text.x1 and b.y0 <= text.y0 and b.y1 >= text.y1 for b in boxes), word


def test_heads_stand_by_position_and_layer():
    tokens, groups, rank = schematic.layout(published(), {})
    where = {token.name: token.x for token in tokens if token.name}
    assert [token.text for token in tokens][:7] == ["I", "thought", "this", "movie", "was", "adjective", ","]
    assert tokens[-1].name == "END" and tokens[-1].text == "is" and tokens[-2].name == "SUM"
    assert list(rank) == [0, 6, 7, 8, 9, 10, 11]
    heights = {(layer, head): y for group in groups for layer, head, _, y, _ in group.boxes}
    assert heights[10, 1] == heights[10, 4] > heights[9, 2] > heights[7, 1] > heights[0, 4]
    for group in groups:
        assert group.frame[0] < group.middle < group.frame[2]
        if group.position != "END":
            assert group.middle == pytest.approx(where[group.position])
    left, right = (next(g for g in groups if g.role == role) for role in ("intermediate", "direct"))
    assert left.frame[2] < right.frame[0] and left.frame[0] < where["END"] < right.frame[2]


def test_direct_and_intermediate_heads_show_their_path_to_the_end():
    figure = schematic.schematic(published(), paths(), "t")
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts.count("9.2") == 2 and texts.count("−92.0 %") == 2  # in both roles: -0.9 - 0.02
    assert texts[texts.index("6.4") + 1] == "−4.0 %"  # a mapping head keeps the rule's score
    lost = published().assign(score=np.nan)
    texts = [text.get_text() for text in schematic.schematic(lost, paths(), "t").axes[0].texts]
    assert texts[texts.index("6.4") + 1] == "7.1"  # no score was measured: none is shown


def test_arrows_go_from_words_by_the_summary_to_the_end():
    tokens, groups, rank = schematic.layout(published(), {})
    found = list(schematic.routes(tokens, groups, max(rank.values()) + 1))
    counts = {role: sum(name == role for name, _ in found) for role in schematic.ROLES}
    # Two words into mapping and direct heads; summary to intermediate ones; each of the two groups at the end to the logits.
    assert counts == {"tokenizer": 2, "mapping": 2 + 1, "intermediate": 1, "direct": 2 + 1}
    assert all(corners[0][0] <= corners[-1][0] for _, corners in found)
    figure = schematic.schematic(crowded()[lambda c: c["role"] == "direct"], paths(), "t")
    arrows = [patch for patch in figure.axes[0].patches if isinstance(patch, FancyArrowPatch)]
    assert len(arrows) == 3  # without summary heads: two words, and the logits


# ---- sufficiency ----------------------------------------------------------------------------------------------------

LIMITS = [("kmeans+das", "first"), ("kmeans", "matched"), ("das", "matched"), ("random", "first")]


def sufficiency_table():
    rows = []
    for dataset in ("movie", "circuit"):
        for base in ("resample", "mean"):
            for metric in ("denoising", "flips", "flips_centred"):
                level = {"denoising": 0.0, "flips": 1.0, "flips_centred": 2.0}[metric]
                key = {"dataset": dataset, "base": base, "metric": metric, "n": 30, "mean_ld": 0.0}
                for node_set, restriction, direction, alignment in sufficiency.table_rows():
                    value = {"none": 0, "all": 100, "circuit": 87, "complement": 37}.get(node_set, 20) + level
                    draws = 20 if node_set.startswith("random") else 1
                    limit = {"node_set": node_set, "restriction": restriction, "direction": direction, "alignment": alignment}
                    for draw in range(draws):
                        ends = {"value": value + draw, "ci_lo": value - 3, "ci_hi": value + 2, "draw": draw}
                        p = 0.05 if node_set == "circuit" and direction == "none" else np.nan
                        rows.append(key | limit | ends | {"n_heads": 10, "n_cells": 12, "p_value": p})
    return pd.DataFrame(rows)


def test_bars_are_the_table_s_values_with_n_and_the_null():
    figure = sufficiency.bars(sufficiency_table(), "t")
    axes = figure.axes[0]
    heights = [patch.get_height() for patch in axes.patches]
    assert heights.count(87) == 6 and heights.count(37) == 6 and heights.count(100) == 5  # all heads have no positions
    assert len(axes.collections) >= 3 and {len(c.get_offsets()) for c in axes.collections if len(c.get_offsets()) > 3} == {20}
    assert "10 heads, 12 (head, position) cells, n = 30" in figure.get_suptitle()
    flips = [patch.get_height() for patch in figure.axes[2].patches]
    assert flips.count(88) == 6
    assert "20 draws" in " ".join(text.get_text() for text in figure.legends[0].get_texts())


def test_the_table_has_a_row_per_condition_and_intervals():
    figure = sufficiency.numbers(sufficiency_table(), "t")
    rows = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(rows) == len(sufficiency.table_rows()) == len(set(rows))
    texts = np.array([text.get_text() for text in figure.axes[0].texts]).reshape(len(rows), 4)
    assert texts[rows.index("the circuit"), 0] == "87.0 % [84.0, 89.0]; 88/89 %; p = 0.05"
    assert texts[rows.index("all other heads"), 1].startswith("37.0 %")
    assert texts[rows.index("random heads"), 3] == "29.5 % (20.0 to 39.0)"
    heads = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert "n = 30" in heads[0] and "corrupted run" in heads[0] and "mean" in heads[1]


# ---- heat-maps ------------------------------------------------------------------------------------------------------


def test_signed_maps_are_red_below_and_blue_above_zero():
    figure, axes = plt.subplots()
    rows = pd.DataFrame([(l, h, l - h) for l in range(3) for h in range(4)], columns=["layer", "head", "value"])
    values = circuit_maps.head_matrix(rows, "value")
    circuit_maps.signed_panel(figure, axes, values, "t", "x", ("layer", "head"))
    image = axes.images[0]
    assert image.get_clim() == (-3, 3) and values.loc[2, 0] == 2 and values.loc[0, 3] == -3
    (red, _, blue, _), (other_red, _, other_blue, _) = image.to_rgba(np.array([[-3.0, 2.0]]))[0]
    assert red > blue and other_blue > other_red
    wide = pd.DataFrame(np.ones((40, 30)))
    figure, axes = plt.subplots()
    circuit_maps.signed_panel(figure, axes, wide, "t", "x", ("layer", "head"))
    assert [label.get_text() for label in axes.get_yticklabels()][:3] == ["0", "2", "4"]  # many ticks are thinned out


def test_cosines_are_a_lower_triangle_in_the_order_of_roles():
    names = head_outputs.cell_order(published())
    assert len(names) == 12 and names[0] == "a0.h4@ADJ" and names[2] == "a6.h4@SUM" and names[-1] == "a11.h9@END"
    order = sorted(names)  # as the table has them: another order
    rows = [
        (a, b, 1.0 if a == b else 0.01 * (names.index(a) + names.index(b))) for i, a in enumerate(order) for b in order[: i + 1]
    ]
    figure = head_outputs.cosines(pd.DataFrame(rows, columns=["a", "b", "cosine"]), published(), "t")
    texts = np.array([text.get_text() for text in figure.axes[0].texts]).reshape(11, 11)
    for i in range(11):
        for j in range(11):
            assert texts[i, j] == (f"{0.01 * (i + 1 + j):.2f}" if j <= i else "")
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()][:2] == ["0.4 at VRB", "6.4 at SUM"]


def places():
    names = {"BOS": 0, "ADJ": 6, "SUM": 16, "END": 17}
    rows = [("movie", "train", "paper", 0, name, place) for name, place in names.items()]
    rows += [("movie", "test", "paper", 0, "OTHER", 3)]
    return pd.DataFrame(rows, columns=["set", "split", "variant", "row", "name", "position"])


def test_the_largest_heads_are_shown_at_every_position():
    rows = [
        (l, h, name, method, alignment, (1 if name == "END" else -0.5) * (l + 0.1 * h) * (2 if alignment == "matched" else 1))
        for l in range(6)
        for h in range(6)
        for name in ("BOS", "ADJ", "SUM", "END")
        for method in ("kmeans", "das")
        for alignment in ("first", "matched")
    ]
    table = pd.DataFrame(rows, columns=["layer", "head", "position", "direction", "alignment", "dot"])
    table = table.assign(dataset="movie", flip=1.0, flip_share=0.5 * np.sign(table["dot"]))
    names = list(circuit_maps.position_names(places()).values())
    assert names == ["BOS", "ADJ", "SUM", "END"]
    figure = head_outputs.localised(table, names, "t")
    maps = [axes.images[0].get_array() for axes in figure.axes if axes.images and axes.get_title()]
    assert np.asarray(maps[0])[5, 5] == pytest.approx(5.5) and np.asarray(maps[1])[5, 5] == pytest.approx(11.0)
    assert maps[2].shape == (24, 4) and np.asarray(maps[2])[-1, 3] == pytest.approx(11.0)
    heads = [label.get_text() for label in figure.axes[2].get_yticklabels()]
    assert heads[0] == "2.0" and heads[-1] == "5.5"  # the twelve smallest are left out


def test_gradients_are_listed_with_the_spread_of_chance():
    rows = [("ov", "a10.h4", 10, "das", -0.411), ("ov", "a9.h2", 9, "das", 0.1), ("ov_answers", "a10.h4", 10, "das", -0.5)]
    rows += [("ov_answers", "a9.h2", 9, "das", 0.2)]
    rows += [("log_prob", reader, 1, "das", value) for reader, value in (("ADJ", -0.3), ("ADJ+VRB", -0.2), ("VRB", -0.1))]
    table = pd.DataFrame(rows, columns=["kind", "reader", "layer", "direction", "cosine"]).assign(chance=768**-0.5)
    figure = head_outputs.gradients(table, "t")
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["−0.300", "−0.100", "−0.200", "0.100", "−0.411", "0.200", "−0.500"]
    assert names[3] == "what head 9.2 turns into negative adjectives" and names[6].endswith(
        "10.4 turns into the negative answers"
    )
    assert "0.036" in figure.get_suptitle()


def ablated_table(ablated=3.0):
    rows = []
    for direction, draw, value in (("kmeans", -1, -0.5), ("das", -1, -0.4), ("random", 0, 0.01), ("random", 1, -0.02)):
        for subset, n in (("negative", 15), ("positive", 15), ("all", 30)):
            rows.append(
                (direction, draw, subset, "run", "all", None, None, None, value, value * 6, value - 0.1, value + 0.1, n)
            )
    for direction in ("kmeans", "das"):
        fixed = (np.nan, np.nan, 15)
        parts = [("dla", name, l, None, None, 0.1 * l) for name in ("attn_out", "mlp_out") for l in range(3)]
        parts += [("dla", "lens", l, None, None, 0.2 * l) for l in range(4)]
        parts += [("dla", "head", l, h, None, 0.1 * l - 0.1 * h) for l in range(3) for h in range(4)]
        parts += [("noising", name, l, h, None, -0.1 * l - 0.01 * h) for name in "zqkv" for l in range(3) for h in range(4)]
        parts += [("noising", "pattern", l, h, None, 0.0) for l in range(3) for h in range(4)]
        sites = ("resid_pre", "attn_out", "mlp_out")
        parts += [("noising", name, l, None, p, -0.01 * p) for name in sites for l in range(3) for p in range(18)]
        rows += [(direction, -1, "negative", *part[:5], part[5], 6 * part[5], *fixed) for part in parts]
    columns = [
        "direction",
        "draw",
        "subset",
        "kind",
        "component",
        "layer",
        "head",
        "position",
        "value",
        "change",
        "ci_lo",
        "ci_hi",
        "n",
    ]
    table = pd.DataFrame(rows, columns=columns).assign(dataset="movie", ld_clean=6.0, ld_ablated=ablated)
    return table.astype(dict.fromkeys(("layer", "head", "position"), "Int16"))  # as tables are read


def test_noising_is_in_percent_where_the_ablation_does_something():
    figure = ablated_circuit.ablated_item(
        "x23-ablated-circuit-kmeans", {"se_ablated_circuit": ablated_table(), "se_positions": places()}, "t"
    )
    maps = {
        axes.get_title(): np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images and axes.get_title()
    }
    assert set(maps) == {"direct attribution of heads", *ablated_circuit.HEADS.values(), *ablated_circuit.SITES.values()}
    assert maps["output (z)"][2, 3] == pytest.approx(-23.0) and maps["direct attribution of heads"][0, 3] == pytest.approx(-0.3)
    assert maps["MLP's output"].shape == (3, 18) and maps["MLP's output"][0, 17] == pytest.approx(-17.0)
    labels = next(axes for axes in figure.axes if axes.get_title() == "MLP's output").get_xticklabels()
    assert [labels[i].get_text() for i in (0, 5, 6, 17)] == ["BOS", "5", "ADJ", "END"]
    assert "6.00 clean, 3.00 ablated" in figure.get_suptitle() and "K-means" in figure.get_suptitle()
    bars = [patch.get_height() for patch in figure.axes[0].patches]
    assert sorted(set(bars)) == [pytest.approx(-50), pytest.approx(-40)]
    small = ablated_circuit.ablated_item(
        "x24-ablated-circuit-das", {"se_ablated_circuit": ablated_table(5.9), "se_positions": places()}, "t"
    )
    maps = {axes.get_title(): np.asarray(axes.images[0].get_array()) for axes in small.axes if axes.images and axes.get_title()}
    assert maps["output (z)"][2, 3] == pytest.approx(6 * -0.23)  # in logits
