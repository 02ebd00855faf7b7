"""The circuit graphs and the attention pictures hold what their tables say."""

import numpy as np
import pandas as pd
import pytest

from recircuit.figures import attention_maps, circuit_graph
from recircuit.figures.style import TASK_COLOURS, plt

MEMBERS = {
    "numerals": {"a0.h1", "a1.h0", "m0", "m1"},
    "numwords": {"a0.h1", "m0", "m1"},
    "months": {"a0.h1", "a1.h3", "m0"},
}


@pytest.fixture(autouse=True)
def closed():
    """Leave no figure open."""
    yield
    plt.close("all")


def edges():
    rows = [
        ("numerals", "a0.h1", "a1.h0<q>", True), ("numerals", "a0.h1", "a1.h0<v>", True), ("numerals", "m0", "m1", True),
        ("numwords", "m0", "m1", True), ("months", "a0.h1", "a1.h3<k>", True), ("months", "m0", "logits", True),
        ("numerals", "m0", "logits", True), ("numwords", "m0", "logits", True), ("numerals", "a1.h0", "m1", False),
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["task", "sender", "receiver", "kept"])


def test_inputs_are_merged_and_an_edge_has_the_tasks_that_keep_it():
    graph = circuit_graph.merged(edges(), MEMBERS)
    assert graph.edges == {
        ("a0.h1", "a1.h0"): ("numerals",),
        ("m0", "m1"): ("numerals", "numwords"),
        ("a0.h1", "a1.h3"): ("months",),
        ("m0", "logits"): ("numerals", "numwords", "months"),
    }
    assert graph.nodes["a0.h1"] == circuit_graph.TASKS and graph.nodes["a1.h0"] == ("numerals",)
    assert graph.nodes["m1"] == ("numerals", "numwords") and graph.nodes["logits"] == circuit_graph.TASKS


def test_a_head_without_a_kept_edge_is_not_drawn():
    rows = edges()
    rows.loc[rows["sender"] == "a0.h1", "kept"] = False
    assert set(circuit_graph.merged(rows, MEMBERS).nodes) == {"m0", "m1", "logits"}


def test_nodes_stand_by_layer_heads_below_their_mlp_and_the_residual_on_top():
    where = circuit_graph.places(circuit_graph.merged(edges(), MEMBERS))
    heights = [where[name][1] for name in ("a0.h1", "m0", "a1.h0", "m1", "logits")]
    assert heights == sorted(heights) and len(set(heights)) == 5 and where["a1.h0"][1] == where["a1.h3"][1]
    assert len(set(where.values())) == len(where)  # nothing on top of anything


def test_the_picture_has_every_node_in_its_tasks_colour_and_key_nodes_outlined():
    drops = pd.DataFrame({"run": "main", "task": list(MEMBERS), "layer": 0, "head": 1, "drop_pp": [-30.0, -20.0, -15.0]})
    assert circuit_graph.key_nodes(drops, published=False) == {"a0.h1"}
    figure = circuit_graph.merged_circuit(edges(), MEMBERS, drops, "t", published=False)
    axes = figure.axes[0]
    names = {text.get_text() for text in axes.texts}
    assert names == {"0.1", "1.0", "1.3", "MLP 0", "MLP 1", "resid_post"}
    where = circuit_graph.places(circuit_graph.merged(edges(), MEMBERS))
    ellipses = {tuple(p.get_center()): p for p in axes.patches if hasattr(p, "get_center")}
    head, white = ellipses[where["a0.h1"]], (1.0, 1.0, 1.0, 1.0)
    assert head.get_facecolor() == white and head.get_linewidth() == 3.0
    assert ellipses[where["a1.h3"]].get_facecolor() == plt.matplotlib.colors.to_rgba(circuit_graph.FILLS["months",])
    assert len([p for p in axes.patches if not hasattr(p, "get_center")]) == 4


def test_a_task_s_circuit_shows_which_inputs_are_reached():
    figure = circuit_graph.task_circuit(edges(), "numerals", "t")
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert "q v" in texts and "1.3" not in texts
    assert "4 kept edges" in figure.axes[0].get_title()
    arrows = [p for p in figure.axes[0].patches if not hasattr(p, "get_center")]
    assert {p.get_edgecolor()[:3] for p in arrows} == {plt.matplotlib.colors.to_rgb(TASK_COLOURS["numerals"])}


def attention(heads, datasets=("numerals", "numwords", "months")):
    roles = ["bos", "w1", "verb1", "in1", "S1", "dot1", "S2", "S3", "S4", "end"]
    rows = []
    for dataset in datasets:
        for (layer, head), (similar, last) in heads.items():
            for q in range(len(roles)):
                for k in range(q + 1):
                    mean = 0.01
                    if (roles[q], roles[k]) in (("S2", "S1"), ("S3", "S2"), ("S4", "S3")):
                        mean = similar
                    elif roles[q] == "end" and roles[k] in ("S2", "S3", "S4"):
                        mean = last
                    rows.append((dataset, layer, head, q, k, roles[q], roles[k], f"Ġt{q}", f"Ġt{k}", mean))
    columns = ["dataset", "layer", "head", "q_pos", "k_pos", "q_role", "k_role", "q_token", "k_token", "mean"]
    return pd.DataFrame(rows, columns=columns)


HEADS = {
    (0, 0): (0.9, 0.1),
    (0, 1): (0.8, 0.1),
    (1, 0): (0.1, 0.3),
    (1, 1): (0.1, 0.25),
    (2, 0): (0.1, 0.2),
    (2, 1): (0.99, 0.3),
}


def test_heads_are_chosen_by_what_they_attend_to_among_the_shared_ones():
    table = attention(HEADS)
    shared = {pair for pair in HEADS if pair != (2, 1)}
    kinds = attention_maps.shown_heads(table, shared, published=False)
    assert kinds == {"similar": [(0, 0), (0, 1)], "last": [(1, 0), (1, 1)], "other": [(2, 0)]}
    free = attention_maps.shown_heads(table, {(0, 0)}, published=False)  # too few are shared: all are looked at
    assert free["similar"] == [(2, 1), (0, 0)]
    assert attention_maps.shown_heads(table, shared, published=True)["last"] == [(7, 11), (9, 1)]


def test_patterns_are_lower_triangles_with_the_cells_that_matter_framed():
    table = attention(HEADS)
    figure = attention_maps.attention_item(table, set(HEADS), "f3-attention-last", "t", published=False)
    panels = [axes for axes in figure.axes if axes.images and axes.get_xlabel() != "mean attention" and axes.patches]
    assert len(panels) == 6
    image = panels[0].images[0]
    values = np.ma.filled(image.get_array(), np.nan)
    assert np.isnan(values[0, 1]) and image.get_cmap().name == "inferno" and image.get_clim() == (0, 1)
    frames = {(round(p.get_x() + 0.5), round(p.get_y() + 0.5)) for p in panels[0].patches}
    assert frames == {(6, 9), (7, 9), (8, 9)}  # keys S2 to S4, query end
    assert [label.get_text() for label in panels[0].get_xticklabels()][:2] == ["t0", "t1"]
