"""Pictures of directional patching hold what its tables say: values, layers, lines, maps, and where a direction stands."""

import numpy as np
import pytest

import sentiment_patching
from recircuit.experiments.sentiment.patching_plans import GENERAL_SETS
from recircuit.figures.sentiment import patching as figures
from recircuit.figures.style import plt
from sentiment_patching import DRAWS, LAYERS, rows_of

world = sentiment_patching.world


@pytest.fixture(autouse=True)
def closed():
    """Leave no figure open."""
    yield
    plt.close("all")


FILES = ("f3a-patching", "f3b-patching-by-layer", "x11-training-sets", "x12-transfer", "x13-dose", "x14-variance-share",
         "x15-null", "x16-toy-by-layer")  # fmt: skip


@pytest.fixture(scope="module")
def drawn(world):
    tables = {name: getattr(world, name) for name in ("se_patching", "se_patching_best", "se_patching_null")}
    return lambda file: figures.patching_item(file, tables, "heading")


@pytest.mark.parametrize("file", FILES)
def test_every_picture_is_drawn(drawn, file, tmp_path):
    drawn(file).savefig(tmp_path / "picture.png", dpi=40)


def value_of(world, **facts):
    return float(rows_of(world, **facts).set_index("metric").loc["logit_diff", "value"])


def test_the_table_says_values_layers_and_intervals(world, drawn):
    figure = drawn("f3a-patching")
    axes = figure.axes[0]
    columns = [label.get_text() for label in axes.get_xticklabels()]
    assert columns[0] == "toy\nreviews\nn = 28\nlogit difference\nbest layer"
    assert columns[4].startswith("reviews,\ncontinued\nn = 20\n")
    names = [label.get_text() for label in axes.get_yticklabels()]
    best = world.se_patching_best.query("eval_set == 'movie' and split == 'test' and variant == 'paper'")
    best = best.query("metric == 'logit_diff' and rule == 'max'").set_index("method")
    for method, name in (("das", "DAS"), ("kmeans", "K-means")):
        text = axes.texts[names.index(name) * len(columns)]
        row = best.loc[method]
        assert text.get_text().replace("−", "-").startswith(f"{row['value']:.1f} % (layer {row['layer']})\n[{row['ci_lo']:.1f}")
        assert (text.get_style() == "italic") == row["readout"]


def test_lines_are_of_their_method_and_layer(world, drawn):
    axes = drawn("f3b-patching-by-layer").axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    facts = {"eval_set": "reviews", "scaffold": "continuation", "split": "test", "method": "das"}
    expected = [value_of(world, **facts, layer=layer) for layer in range(LAYERS)]
    assert lines["DAS"].get_ydata() == pytest.approx(expected)
    assert list(lines["K-means"].get_xdata()) == [0, 1, 2, 3]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels[-1] == "range of 2 random directions"


def test_maps_have_what_was_fitted_in_rows_and_what_was_tested_in_columns(world, drawn):
    figure = drawn("x12-transfer")
    image = np.asarray(figure.axes[0].images[0].get_array())
    assert image.shape == (3, 4)
    assert image[0, 2] == pytest.approx(value_of(world, eval_set="movie", split="test", method="das", layer=2, from_layer=0))
    assert figure.axes[0].images[0].get_clim() == (-100, 100)
    red, _, blue, _ = figure.axes[0].images[0].to_rgba(np.array([[-90.0]]))[0, 0]
    assert red > blue
    sets = drawn("x11-training-sets")
    names = [label.get_text() for label in sets.axes[0].get_yticklabels()]
    assert names == ["adverbs", "books", "reviews"] and set(GENERAL_SETS) >= {"adverb", "book", "movie"}
    plain = np.asarray(sets.axes[0].images[0].get_array())
    facts = {"eval_set": "adverb", "split": "all", "method": "mean_diff"}
    assert plain[2, 0] == pytest.approx(max(value_of(world, **facts, layer=layer) for layer in range(LAYERS)))
    rest = np.asarray(sets.axes[6].images[0].get_array())
    assert np.abs(np.diag(rest)).max() < 1e-9


def test_the_histogram_says_where_a_direction_stands(world, drawn):
    axes = drawn("x15-null").axes[0]
    assert sum(patch.get_height() for patch in axes.patches) == DRAWS
    picked = world.se_patching_best.query("rule == 'train' and eval_set == 'movie' and split == 'test' and method == 'das'")
    p = world.se_patching_null.query("null == 'random' and method == 'das' and eval_set == 'movie' and metric == 'logit_diff'")
    p = p.set_index("layer").loc[picked["layer"].iloc[0]]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert any(label.startswith("DAS ") and label.endswith(f"p = {p['p']:.3f}") for label in labels)
