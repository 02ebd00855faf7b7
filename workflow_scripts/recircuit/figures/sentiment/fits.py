"""How well fitted directions tell words apart, by layer; and what distributed alignment search loses on its way."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from recircuit.figures.sentiment.look import METHOD_COLOURS, METHODS
from recircuit.figures.style import plt

# (test set, position) of fits to adjectives, and what is drawn of them: rule, column, label.
TESTS = {("train", "ADJ"): "the same adjectives", ("left out", "ADJ"): "each adjective by the others' fit",
         ("test", "ADJ"): "other adjectives", ("test", "VRB"): "verbs"}  # fmt: skip
SCORES = (
    ("published", "accuracy", "accuracy, by the\nfits' own rules"),
    ("midpoint", "accuracy", "accuracy, by the\nmiddle of the classes"),
    ("midpoint", "auc", "pairs in the\nright order"),
)


def accuracies(table: pd.DataFrame, title: str) -> Figure:
    """Ours: accuracy by layer of each method's fit to the paper's training adjectives, on four sets of words."""
    table = table[(table["variant"] == "paper") & (table["position"] == "ADJ")]
    figure, grid = plt.subplots(len(SCORES), len(TESTS), figsize=(12.5, 8.2), sharex=True, sharey=True)
    for line, (rule, column, label) in zip(grid, SCORES, strict=True):
        for axes, (test, name) in zip(line, TESTS.items(), strict=True):
            rows = table[(table["rule"] == rule) & (table["test_set"] == test[0]) & (table["test_position"] == test[1])]
            rows = rows.dropna(subset=[column])
            if rows.empty:
                axes.set_axis_off()
                continue
            _curves(axes, rows, column)
            first = rows.iloc[0]
            axes.set_title(f"{name}\n{first['n']} prompts, {first['n_words']} words", fontsize=9)
            axes.tick_params(labelleft=True, labelbottom=True)
            axes.set_xlabel("layer")
        line[0].set_ylabel(label)
    handles = [
        plt.Line2D([], [], color=METHOD_COLOURS[name], marker="o", markersize=3.5, label=label)
        for name, label in METHODS.items()
        if name in set(table["method"])
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=9)
    figure.suptitle(title, fontsize=11)
    return figure


def _curves(axes: Axes, rows: pd.DataFrame, column: str) -> None:
    for i, name in enumerate(METHODS):  # smaller and smaller rings, so that curves on each other can be told
        part = rows[rows["method"] == name].sort_values("layer")
        look = {"color": METHOD_COLOURS[name], "markersize": 10 - i, "markerfacecolor": "none", "linewidth": 2.6 - 0.25 * i}
        axes.plot(part["layer"], part[column], "o-", **look)
        if column == "accuracy":
            axes.vlines(part["layer"], part["ci_lo"], part["ci_hi"], color=METHOD_COLOURS[name], linewidth=0.7, alpha=0.35)
    axes.axhline(0.5, color="0.6", linewidth=0.8, linestyle=":")
    axes.set_ylim(-0.06, 1.06)
    axes.xaxis.get_major_locator().set_params(integer=True)


def dimensions(history: pd.DataFrame, title: str) -> Figure:
    """The appendix's curves: loss of DAS with one to sixteen dimensions on training and test reviews, pass by pass."""
    rows = history[(history["set"] == "movie") & (history["variant"] == "paper") & (history["seed"] == history["seed"].min())]
    swept = rows[rows["eval_loss"].notna()]
    layers = sorted(swept["layer"].unique(), reverse=True)  # the middle, which is the published one, first
    figure, grid = plt.subplots(1, len(layers), figsize=(5.4 * len(layers) + 0.4, 4.6), squeeze=False)
    dims = sorted(d for d in swept["d_das"].unique() if d & (d - 1) == 0)
    shades = plt.get_cmap("viridis_r")(np.linspace(0.1, 1, len(dims)))
    for axes, layer in zip(grid.flat, layers, strict=True):
        here = rows[rows["layer"] == layer]
        for d, shade in zip(dims, shades, strict=True):
            _losses(axes, here[(here["d_das"] == d) & (here["kind"] == "frame")], shade, f"d = {d}")
        _losses(axes, here[here["kind"] == "rotation"], "#d62728", "d = 1, as published")
        name = f"layer {layer}" + (", the middle, as published" if layer == layers[0] else "")
        axes.set(xlabel="passes over the training prompts", ylabel="1 − share of the logit difference", title=name)
    handles, labels = grid.flat[0].get_legend_handles_labels()
    handles += [plt.Line2D([], [], color="0.3", linestyle=style) for style in ("-", "--")]
    figure.legend(handles, [*labels, "training reviews", "test reviews"], loc="outside lower center", ncols=4, fontsize=9)
    figure.suptitle(title, fontsize=11)
    return figure


def _losses(axes: Axes, rows: pd.DataFrame, colour, label: str) -> None:
    """Draw one search's losses; the test set is looked at where a pass begins."""
    rows = rows.sort_values("step")
    seen = rows[rows["eval_loss"].notna()]
    steps = max(1, int(seen["step"].diff().max())) if len(seen) > 1 else 1
    axes.plot(rows["step"] / steps, rows["train_loss"], color=colour, linewidth=1.3, label=label)
    axes.plot(seen["step"] / steps, seen["eval_loss"], color=colour, linewidth=1.1, linestyle="--")
