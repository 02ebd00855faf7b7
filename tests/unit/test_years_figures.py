"""The pictures of greater-than hold what their tables say: ranges, colours, orientation, which cells are empty."""

import numpy as np
import pandas as pd
import pytest

from recircuit.figures.greater_than import diagram, heatmaps, lenses, maps, stages, tables
from recircuit.figures.style import plt

YEARS = range(2, 99)


@pytest.fixture(autouse=True)
def closed():
    """Leave no figure open."""
    yield
    plt.close("all")


def heatmap(dataset="D10k", kind="behaviour gelu_new", condition="clean", scale=1.0):
    rows = [(y, p, scale * (p > y) / max(1, 99 - y)) for y in YEARS for p in range(100)]
    return pd.DataFrame(rows, columns=["yy", "pred", "prob"]).assign(dataset=dataset, kind=kind, condition=condition, n=1)


def means(activation="gelu_new", dataset="D10k"):
    row = {"dataset": dataset, "pool": "code768", "activation": activation, "seed": 0, "condition": "clean", "subset": "all"}
    row |= {"mean_pd": 0.817, "sd_pd": 0.193, "sem_pd": 0.002, "mean_cs": 0.06, "sd_cs": 0.07, "top1_valid": 0.992}
    return pd.DataFrame([row | {"ci_lo": 0.813, "ci_hi": 0.821, "n": 10000}])


def image_of(figure, i=0):
    return [image for axes in figure.axes for image in axes.images][i]


def test_the_first_year_is_on_top_and_the_paper_s_range_is_used():
    figure = heatmaps.behaviour(heatmap(), means(), "gelu_new", "t", published=True)
    image = image_of(figure)
    left, right, bottom, top = image.get_extent()
    assert (left, right) == (-0.5, 99.5) and bottom > top == 1.5  # YY = 02 is the first row from above
    assert image.get_clim() == (0, 0.25) and image.get_cmap().name == "Blues"
    assert "0.817 ± 0.193" in figure.axes[0].get_title()
    ticks = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert ticks[:3] == ["02", "07", "12"] and ticks[-1] == "97"
    other = heatmaps.behaviour(heatmap(scale=2.0), means(), "gelu_new", "t", published=False)
    assert image_of(other).get_clim()[1] > 0.25  # another model has a range of its own


def test_the_slice_is_that_of_its_year():
    figure = heatmaps.behaviour(heatmap(), means(), "gelu_new", "t", published=True)
    bars = next(axes for axes in figure.axes if axes.patches)
    heights = [patch.get_height() for patch in bars.patches]
    assert heights[:42] == [0.0] * 42 and heights[42] == pytest.approx(1 / 58)


def test_the_trained_activation_is_the_one_with_all_data_sets():
    rows = pd.concat([means(), means(dataset="D10k_617"), means("gelu")])
    assert heatmaps.trained_activation(rows) == "gelu_new"
    rows = pd.concat([means("gelu"), means("gelu", dataset="D10k_617"), means()])
    assert heatmaps.trained_activation(rows) == "gelu"


def ipp():
    rows = [("logits", f"a{l}.h{h}", "head", l, h, "END", True, -0.1 * l - 0.01 * h) for l in range(3) for h in range(2)]
    rows += [("logits", f"m{l}", "mlp", l, None, "END", True, 0.05) for l in range(3)]
    rows += [("v", "embed", "embed", -1, None, "YY", True, -0.4), ("v", "a0.h1", "head", 0, 1, "YY", True, -0.2)]
    rows += [("v", "a2.h0", "head", 2, 0, "YY", False, 0.0)]
    columns = ["stage", "sender", "sender_kind", "sender_layer", "sender_head", "sender_pos", "eligible", "delta_pd"]
    frame = pd.DataFrame(rows, columns=columns).astype({"sender_head": "Int16"})
    return frame.assign(dataset="D490", delta_pd_sem=0.001, delta_cs=0.0, baseline_pd=0.8, n=10)


def test_a_stage_is_a_map_of_layers_by_heads_with_the_mlp_last():
    wide = maps.sender_matrix(ipp(), "logits")
    assert wide.shape == (3, 3) and np.isinf(wide.columns[-1])
    assert wide.loc[2, 1.0] == pytest.approx(-0.21) and wide.loc[0].iloc[-1] == 0.05
    heard = maps.sender_matrix(ipp(), "v")
    assert heard.loc[-1, 0.0] == -0.4 and heard.loc[0, 1.0] == -0.2
    assert np.isnan(heard.loc[2, 0.0])  # no path from there


def test_effects_are_red_where_they_lower_the_difference():
    figure = stages.main_stages(ipp(), "f4-logits-ipp", "t", published=True)
    image = image_of(figure)
    assert image.get_clim() == (-0.5, 0.5)
    red, _, blue, _ = image.to_rgba(np.array([[-0.4]]))[0, 0]
    assert red > 0.5 > blue
    own = image_of(stages.main_stages(ipp(), "f4-logits-ipp", "t", published=False))
    assert own.get_clim() == (pytest.approx(-0.21), pytest.approx(0.21))


def lens(component, kind="lens", name="own_ln"):
    rows = [(y, p, float(p + y)) for y in YEARS for p in range(100)]
    return pd.DataFrame(rows, columns=["yy", "pred", "value"]).assign(component=component, kind=kind, lens=name, n=1)


def test_mlps_are_shown_minus_the_first_year_and_the_highest_first():
    table = pd.concat([lens("m8"), lens("m11"), lens("m10"), lens("m9"), lens("a7.h10")])
    figure = lenses.mlp_lens(table, "t", published=True)
    assert [axes.get_title() for axes in figure.axes if axes.images][:4] == ["MLP 11", "MLP 10", "MLP 9", "MLP 8"]
    values = image_of(figure).get_array()
    assert (np.asarray(values)[:, 0] == 0).all() and np.asarray(values)[5, 7] == 7
    assert image_of(figure, 0).get_clim() == (-5, 4) and image_of(figure, 1).get_clim() == (-15, 15)


def neurons():
    sets = {f"rank {i}": i for i in range(1, 12)} | {"top 10": 10, "top 10 summed": 10}
    rows = [(s, y, p, float(k * (p - y)), float(k)) for s, k in sets.items() for y in YEARS for p in range(100)]
    frame = pd.DataFrame(rows, columns=["set", "yy", "pred", "lens", "direct"]).assign(k=1)
    ranking = pd.DataFrame({"layer": 10, "neuron": range(100, 120), "rank": range(1, 21)})
    return frame, ranking


def test_sums_of_neurons_lose_their_first_row_and_single_ones_do_not():
    frame, ranking = neurons()
    figure = lenses.neurons(frame, ranking, "f8-neurons", "t", published=True)
    single, total = image_of(figure, 0).get_array(), image_of(figure, 3).get_array()
    assert np.asarray(single)[0, 50] == 48 and (np.asarray(total)[0] == 0).all()
    assert np.asarray(total)[10, 0] == -100  # minus the row of 02: 10 (0 - 12) - 10 (0 - 2)
    titles = [axes.get_title() for axes in figure.axes if axes.images]
    assert titles[0] == "neuron m10.n100 (rank 1)" and titles[3] == "sum of the top 10"


def test_tables_say_the_numbers_of_their_rows():
    split = pd.DataFrame({"layer": [8, 10], "direct": [0.14, 0.56], "indirect": [0.39, 0.16], "total": [0.5, 0.7], "n": 490})
    figure = tables.split(split, "t")
    texts = [t.get_text() for t in figure.axes[0].texts]
    assert texts[:3] == ["56.0 %", "16.0 %", "70.0 %"]  # the highest MLP first
    card = pd.DataFrame(
        {"quantity": ["a" * 90, "b"], "published": ["1", "2"], "ours": [None, "2"], "verdict": ["not run", "match"]}
    )
    drawn = tables.scorecard(card, "t")
    assert [t.get_text() for t in drawn.axes[0].texts] == ["1", "–", "not run", "2", "2", "match"]


def test_the_circuit_s_edges_are_those_that_cost_enough():
    circuit = pd.DataFrame(
        [
            ("late_head", "a2.h0", 2, 0),
            ("late_mlp", "m2", 2, None),
            ("low_embed", "embed", -1, None),
            ("low_head", "a0.h1", 0, 1),
        ],
        columns=["role", "node", "layer", "head"],
    ).assign(score=-0.1, source="found")
    found = set(diagram.edges(circuit, ipp(), 0.02))
    assert {(a, b) for a, b, _ in found} == {("a2.h0", "logits"), ("yy:embed", "a2.h0"), ("yy:a0.h1", "a2.h0")}
    assert {(a, b): lost for a, b, lost in found}["yy:embed", "a2.h0"] == pytest.approx(0.5)
    where = diagram.places(circuit)
    assert where["logits"].y > where["m2"].y == where["a2.h0"].y > where["yy:a0.h1"].y > where["yy:embed"].y
    diagram.diagram(circuit, ipp(), 0.02, "t")
