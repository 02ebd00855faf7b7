"""Pictures of fitted directions hold what their tables say: which cell, which colour, which curve, no label on another."""

import itertools

import numpy as np
import pandas as pd
import pytest

from recircuit.figures.sentiment import directions as tables
from recircuit.figures.sentiment import fits, pca
from recircuit.figures.sentiment.look import METHOD_COLOURS, METHODS, NEGATIVE, POSITIVE, SIGNED
from recircuit.figures.style import plt

# The cosines of adjacent layers of the released vectors, and of layers 1 and 11, as printed in the specification (3.1).
ADJACENT = (0.371, 0.910, 0.873, 0.914, 0.735, 0.814, 0.875, 0.840, 0.926, -0.895, -0.848)


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def texts_of(figure):
    """Return the cells' texts of a table, row by row."""
    axes = figure.axes[0]
    found = {(round(text.get_position()[1]), round(text.get_position()[0])): text.get_text() for text in axes.texts}
    return [[found[i, j] for j in range(len(axes.get_xticklabels()))] for i in range(len(axes.get_yticklabels()))]


def number(i, j, layer):
    """A cosine that tells from which cell it comes."""
    return 1.0 if i == j else (i - j) * 0.1 + 0.01 * layer


def cosines(layers=5):
    names = [*tables.COMPARED, "svd"]
    rows = [
        (a, layer, "movie", variant, b, layer, "movie", other, number(i, j, layer) if variant == other == "paper" else 9.0)
        for (i, a), (j, b), layer in itertools.product(enumerate(names), enumerate(names), range(layers))
        for variant, other in itertools.product(("paper", "full"), repeat=2)
    ]
    rows += [
        ("das", a, "movie", "paper", "das", b, "movie", "paper", number(a, b, 0))
        for a, b in itertools.permutations(range(layers - 1), 2)
    ]
    sets = ["adverb", "book", "movie", "product", "res"]
    rows += [
        (m, layer, a, "paper", m, layer, b, "paper", 0.05 * i - 0.1 * j + 0.01 * layer + 0.001 * k)
        for (k, m), layer in itertools.product(enumerate(("das", "logistic_regression", "mean_diff")), range(layers))
        for (i, a), (j, b) in itertools.product(enumerate(sets), repeat=2)
        if (a, b) != ("movie", "movie")
    ]
    columns = [f"{name}_{side}" for side in "ab" for name in ("method", "layer", "set", "variant")]
    found = pd.DataFrame(rows, columns=[*columns, "cosine"])
    # DAS has no final layer.
    last = ((found["method_a"] == "das") & (found["layer_a"] == layers - 1)) | (
        (found["method_b"] == "das") & (found["layer_b"] == layers - 1)
    )
    return found[~last].drop_duplicates(columns)


def test_methods_stand_in_the_papers_order_in_three_layers():
    figure = tables.cosine_item("f2a-cosines", cosines(), "t", published=False)
    axes, texts = figure.axes[0], texts_of(figure)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["DAS", "K-means", "LR", "mean diff", "PCA", "random"]
    assert [label.get_text() for label in axes.get_yticklabels()][::6] == ["layer 0: DAS", "layer 1: DAS", "layer 2: DAS"]
    assert texts[0][:2] == ["100 %", "−10 %"] and texts[1][0] == "10 %" and texts[6 + 2][4] == "−19 %"
    assert texts[12 + 5] == ["52 %", "42 %", "32 %", "22 %", "12 %", "100 %"]
    image = axes.collections[0].get_array()
    assert np.allclose(image[0, 0], plt.get_cmap(SIGNED)(1.0)) and np.allclose(image[0, 5], plt.get_cmap(SIGNED)(0.25))
    assert image[0, 0, 2] > image[0, 0, 0] and image[0, 5, 0] > image[0, 5, 2]  # blue for one side, red for the other


def test_released_vectors_stand_above_the_diagonal_turned_to_the_positive_side():
    known = tables.released(12)
    assert np.allclose(np.diag(known, 1), np.abs(ADJACENT), atol=6e-4) and known[1, 11] == pytest.approx(0.537, abs=6e-4)
    assert (known == known.T).all() and (np.diag(known) == 1).all() and (known > 0.2).all()
    wide = cosines(layers=13)
    wide = wide[wide["method_a"].eq("das") & wide["method_b"].eq("das")]
    texts = texts_of(tables.cosine_item("x2-das-layers", wide, "t", published=True))
    assert (
        len(texts) == 12
        and texts[9][10] == "0.90"
        and texts[0][1] == "0.37"
        and texts[5][2] == "0.30"
        and texts[3][3] == "1.00"
    )
    ours = texts_of(tables.cosine_item("x2-das-layers", wide, "t", published=False))
    assert ours[5][2] == "0.30" and ours[2][5] == "−0.30"


def test_training_sets_stand_beside_each_other_at_two_layers():
    figure = tables.cosine_item("x4-training-sets", cosines(), "t", published=False)
    texts, axes = texts_of(figure), figure.axes[0]
    assert axes.get_yticklabels()[0].get_text() == "DAS: reviews" and axes.get_yticklabels()[9].get_text() == "LR: products"
    assert (
        axes.get_xticklabels()[1].get_text() == "layer 0:\nadverbs"
        and axes.get_xticklabels()[7].get_text() == "layer 2:\nbooks"
    )
    assert texts[0][0] == "1.00" and texts[0][1] == "0.10"  # reviews (the third) with adverbs (the first)
    assert texts[5 + 1][5 + 2] == "−0.08" and texts[10 + 3][0] == "0.00"


# ---- words on components --------------------------------------------------------------------------------------------


def boxes(at, texts):
    em = pca.SIZE / 72 / pca.DRAWN
    return [(x, y, 0.29 * em * len(text), 0.5 * em) for (x, y), text in zip(at, texts, strict=True)]


@pytest.mark.parametrize("seed", range(3))
def test_labels_cover_neither_each_other_nor_a_point(seed):
    rng = np.random.default_rng(seed)
    centres = rng.uniform(0.2, 0.8, (3, 2))
    at = np.concatenate([centre + rng.normal(0, 0.02, (18, 2)) for centre in centres] + [centres, centres])
    texts = ["x" * int(n) for n in rng.integers(4, 13, len(at))]
    found = boxes(pca.spread(at, texts), texts)
    for (x, y, w, h), (a, b, u, v) in itertools.combinations(found, 2):
        assert abs(x - a) >= w + u or abs(y - b) >= h + v
    for (x, y, w, h), (a, b) in itertools.product(found, at):
        assert abs(x - a) >= w or abs(y - b) >= h
    assert all(w <= x <= 1 - w and h <= y <= 1 - h for x, y, w, h in found)
    assert (pca.spread(at, texts) == pca.spread(at, texts)).all()


def test_lone_words_stand_beside_their_points():
    at = np.array([[0.3, 0.5], [0.7, 0.5]])
    found = pca.spread(at, ["good", "bad"])
    assert np.abs(found - at).max() < 0.06


def points():
    rows = [("train", "ADJ", "good", 1, 1.0, 0.0), ("train", "ADJ", "bad", 0, -1.0, 0.0), ("test", "ADJ", "grand", 1, 0.5, 0.5)]
    rows += [("test", "VRB", "hated", 0, -0.5, 0.5), ("centroid", "ADJ", "positive", 1, 0.8, 0.1)]
    frame = pd.DataFrame(rows, columns=["set", "position", "word", "label", "pc1", "pc2"]).assign(
        share1=0.5, share2=0.25, cluster=0
    )
    return pd.concat([frame.assign(layer=layer) for layer in (0, 1, 6)])


def test_words_are_red_or_blue_dots_or_squares_and_centres_are_crosses():
    figure = pca.pca_item("a1-pca", points(), "t")
    assert len(figure.axes) == 2
    left, right = ({text.get_text(): text.get_color() for text in axes.texts} for axes in figure.axes)
    assert left == {"good": POSITIVE, "bad": NEGATIVE, "grand": POSITIVE}
    assert right == {"good": POSITIVE, "bad": NEGATIVE, "hated": NEGATIVE}
    centre, dots, squares = figure.axes[0].collections
    assert [len(part.get_offsets()) for part in (centre, dots, squares)] == [1, 2, 1]
    assert len(squares.get_paths()[0].vertices) == 5 and len(dots.get_paths()[0].vertices) > 8
    assert tuple(squares.get_offsets()[0]) == (0.5, 0.5)
    (good, bad), (grand,) = dots.get_facecolors(), squares.get_facecolors()
    assert good[2] > good[0] and grand[2] > grand[0] and bad[0] > bad[2]  # blue, blue, red
    assert figure.axes[0].get_xlabel() == "PC 1 (50.0 % of the variance)"
    later = pca.pca_item("x1-pca-later", points(), "t")
    assert [axes.get_title().partition(":")[0] for axes in later.axes] == ["layer 1", "layer 1", "layer 6", "layer 6"]


# ---- curves ---------------------------------------------------------------------------------------------------------


def accuracies():
    rows = [
        (method, variant, position, layer, *test, rule, 0.1 * layer + 0.01 * i + (variant == "full") + (position == "VRB"))
        for (i, method), layer in itertools.product(enumerate(("das", "pca", "random")), range(4))
        for variant, position in itertools.product(("paper", "full"), ("ADJ", "VRB"))
        for test in fits.TESTS
        for rule in ("published", "midpoint")
        if not (rule == "published" and (test[0] == "left out" or method != "pca"))
    ]
    columns = ["method", "variant", "position", "layer", "test_set", "test_position", "rule", "accuracy"]
    frame = pd.DataFrame(rows, columns=columns).assign(set="movie", n=28, n_words=8, ci_lo=0.1, ci_hi=0.9)
    frame["auc"] = np.where((frame["rule"] == "midpoint") & (frame["test_set"] != "left out"), 1 - frame["accuracy"], np.nan)
    return frame


def test_each_panel_has_the_curves_of_one_rule_and_one_set_of_words():
    figure = fits.accuracies(accuracies(), "t")
    grid = np.array(figure.axes[:12]).reshape(3, 4)
    assert [axes.axison for axes in grid[:, 1]] == [False, True, False]

    def curves(axes):
        by = {line.get_color(): list(line.get_ydata()) for line in axes.lines if len(line.get_xdata()) == 4}
        return {name: by[colour] for name, colour in METHOD_COLOURS.items() if colour in by}

    assert curves(grid[0, 0]) == {"pca": pytest.approx([0.01, 0.11, 0.21, 0.31])}
    assert curves(grid[1, 2]) == {
        name: pytest.approx([0.1 * k + 0.01 * i for k in range(4)]) for i, name in enumerate(("das", "pca", "random"))
    }
    assert curves(grid[2, 3])["random"] == pytest.approx([0.98, 0.88, 0.78, 0.68])
    assert grid[1, 3].get_title() == "verbs\n28 prompts, 8 words"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [METHODS[name] for name in ("das", "pca", "random")]


def test_losses_are_drawn_pass_by_pass_with_the_middle_first():
    rows = [
        ("movie", "paper", layer, d, kind, 0, step, d + 0.1 * step + layer, (d + 0.1 * step) if step % 2 == 0 else np.nan)
        for layer, d, step in itertools.product((0, 6), (1, 2, 3, 16), range(5))
        for kind in (("frame", "rotation") if d == 1 else ("frame",))
    ]
    rows += [("movie", "paper", 3, 1, "frame", 0, step, 9.0, np.nan) for step in range(5)]
    rows += [("book", "full", 0, 1, "frame", 0, step, 9.0, np.nan) for step in range(5)]
    columns = ["set", "variant", "layer", "d_das", "kind", "seed", "step", "train_loss", "eval_loss"]
    figure = fits.dimensions(pd.DataFrame(rows, columns=columns), "t")
    first, second = figure.axes
    assert first.get_title() == "layer 6, the middle, as published" and second.get_title() == "layer 0"
    solid = [line for line in first.lines if line.get_linestyle() == "-"]
    assert [line.get_label() for line in solid] == ["d = 1", "d = 2", "d = 16", "d = 1, as published"]
    assert list(solid[1].get_xdata()) == [0, 0.5, 1, 1.5, 2] and list(solid[1].get_ydata()) == pytest.approx(
        [8, 8.1, 8.2, 8.3, 8.4]
    )
    dashed = [line for line in first.lines if line.get_linestyle() == "--"]
    assert list(dashed[2].get_xdata()) == [0, 1, 2] and list(dashed[2].get_ydata()) == pytest.approx([16, 16.2, 16.4])
