"""Tokens of running text: extremes, groups of words, AUC by layer; and the loss without a direction (spec 3.9, 3.13)."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from recircuit.figures.sentiment.look import METHOD_COLOURS, METHODS, NEGATIVE, POSITIVE
from recircuit.figures.style import number, plt

PUBLISHED = "kmeans"
SHOWN = 10  # tokens at either end
ALL = "all"
GROUPS = {
    "negative words": NEGATIVE,
    "neutral words": "#7f7f7f",
    "positive words": POSITIVE,
    ALL: "black",
}  # as drawn: last on top
SUBSETS = ("all", "positive", "negative", "neutral", "unlabelled")
ALIGNMENTS = {"first": "layer 1's after all layers", "matched": "each layer's own", "none": ""}


def token_name(token: str) -> str:
    """Return a token as a label shows it: a leading space as an open box, breaks as arrows."""
    shown = token.replace("\n", "↵").replace("\t", "⇥").replace("$", "\\$")
    return f"␣{shown[1:]}" if shown.startswith(" ") else shown or "(empty)"


def extremes(stats: pd.DataFrame, column: str, count: int = SHOWN) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the tokens with the least and the largest ``column``, each end's extreme one first."""
    order = stats.sort_values([column, "token_id"], kind="stable")
    return order.head(count), order.tail(count)[::-1]


def token_bars(stats: pd.DataFrame, column: str, title: str) -> Figure:
    """The appendix's bars: tokens with extreme means, or extreme standard deviations, of the activation."""
    methods = [name for name in (PUBLISHED, "das") if name in set(stats["method"])]
    figure, grid = plt.subplots(len(methods), 2, figsize=(9.6, 3.9 * len(methods) + 0.4), squeeze=False)
    for line, method in zip(grid, methods, strict=True):
        ends = extremes(stats[stats["method"] == method], column)
        for axes, rows, what in zip(line, ends, ("lowest", "highest"), strict=True):
            _bars(axes, rows, column)
            axes.set_title(f"{METHODS[method]}: {what}", fontsize=10)
    for axes in grid[-1]:
        axes.set_xlabel({"mean": "mean activation ± standard deviation", "sd": "standard deviation"}[column])
    figure.suptitle(title, fontsize=11)
    return figure


def _bars(axes: Axes, rows: pd.DataFrame, column: str) -> None:
    colours = [POSITIVE if value >= 0 else NEGATIVE for value in rows["mean"]]
    error = {"xerr": rows["sd"], "error_kw": {"linewidth": 0.8, "ecolor": "0.3"}} if column == "mean" else {}
    axes.barh(range(len(rows)), rows[column], color=colours, **error)
    names = [f"{token_name(token)} ({count})" for token, count in zip(rows["token"], rows["count"], strict=True)]
    axes.set_yticks(range(len(rows)), names, fontsize=9)
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.8)
    axes.xaxis.get_major_locator().set_params(nbins=5)


def word_groups(histogram: pd.DataFrame, title: str, bins: int = 50) -> Figure:
    """The appendix's histograms: activations of the paper's positive, negative and neutral words, and of all tokens."""
    methods = [name for name in METHODS if name in set(histogram["method"])]
    figure, grid = plt.subplots(2, 3, figsize=(11.5, 6.4), squeeze=False)
    cosines = histogram[histogram["kind"] == "cosine"]
    for axes, method in zip(grid.flat, methods, strict=False):
        for group, colour in GROUPS.items():
            _outline(axes, cosines[(cosines["method"] == method) & (cosines["subset"] == group)], colour, bins)
        axes.set_title(METHODS[method], fontsize=10)
        axes.set(xlabel="activation", ylabel="% of the group's tokens")
    for axes in grid.flat[len(methods) :]:
        axes.set_axis_off()
    counts = cosines[cosines["method"] == methods[0]].groupby("subset")["count"].sum()
    names = {group: f"{'all tokens' if group == ALL else group} ({counts.get(group, 0)})" for group in GROUPS}
    handles = [
        plt.Rectangle((0, 0), 1, 1, facecolor=colour if group != ALL else "none", edgecolor=colour, label=names[group])
        for group, colour in GROUPS.items()
    ]
    grid.flat[-1].legend(handles=handles, loc="center")
    figure.suptitle(title, fontsize=11)
    return figure


def _outline(axes: Axes, rows: pd.DataFrame, colour: str, bins: int) -> None:
    rows = rows.sort_values("bin")
    total = rows["count"].sum()
    if not total:
        return
    width = len(rows) // bins
    counts = rows["count"].to_numpy().reshape(-1, width).sum(1)
    edges = [*rows["left"].to_numpy()[::width], rows["right"].iloc[-1]]
    filled = colour != GROUPS[ALL]
    axes.stairs(100 * counts / total, edges, color=colour, linewidth=1.3, fill=filled, alpha=0.55 if filled else 1)


def auc_lines(table: pd.DataFrame, title: str) -> Figure:
    """Ours: by layer, how often a positive word's mean activation exceeds a negative one's, with intervals over words."""
    kinds = {"all": "all words with a sign", "unseen": "without the words that were fitted"}
    figure, grid = plt.subplots(1, 2, figsize=(11, 4.4), sharey=True)
    low = float(table["ci_lo"].min()) - 0.02
    for axes, (words, name) in zip(grid, kinds.items(), strict=True):
        rows = table[table["words"] == words]
        for method in METHODS:
            part, colour = rows[rows["method"] == method].sort_values("layer"), METHOD_COLOURS[method]
            if len(part):
                axes.plot(part["layer"], part["auc_words"], "o-", color=colour, markersize=4, label=METHODS[method])
                axes.fill_between(part["layer"], part["ci_lo"], part["ci_hi"], color=colour, alpha=0.13, linewidth=0)
        axes.axhline(0.5, color="0.6", linewidth=0.8, linestyle=":")
        axes.set(xlabel="layer (of the stream entering it, and of the direction)", ylim=(min(0.3, low), 1.02))
        axes.set_title(f"{name} ({rows['n_words'].max() if len(rows) else 0})", fontsize=10)
        axes.xaxis.get_major_locator().set_params(integer=True)
    grid[0].set_ylabel("AUC of positive over negative words")
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=9)
    figure.suptitle(title, fontsize=11)
    return figure


def text_item(file: str, tables: Mapping[str, pd.DataFrame], title: str) -> Figure:
    """Return the tokens with extreme means or standard deviations, the groups of words, or the AUC by layer."""
    if file.endswith(("means", "deviations")):
        return token_bars(tables["se_token_stats"], "mean" if file.endswith("means") else "sd", title)
    return word_groups(tables["se_text_hist"], title) if file.endswith("groups") else auc_lines(tables["se_text_auc"], title)


# ---- loss -----------------------------------------------------------------------------------------------------------


def loss_bars(table: pd.DataFrame, title: str) -> Figure:
    """Ours: the loss that taking a direction's projection from another row adds, by the label of the token to come."""
    rows = table[table["direction"] != "none"]
    subsets = [name for name in SUBSETS if name in set(rows["subset"])]
    figure, grid = plt.subplots(1, len(subsets), figsize=(2.2 * len(subsets) + 3.4, 3.9), sharey=True, squeeze=False)
    for axes, subset in zip(grid[0], subsets, strict=True):
        part = rows[rows["subset"] == subset].reset_index(drop=True)
        colours = [METHOD_COLOURS[name] for name in part["direction"]]
        axes.barh(part.index, part["delta"], xerr=1.96 * part["se"], color=colours, error_kw={"linewidth": 0.8})
        axes.axvline(0, color="black", linewidth=0.8)
        loss = table.loc[(table["direction"] == "none") & (table["subset"] == subset), "loss"].iloc[0]
        axes.set_title(f"{subset}\n{part['n_tokens'].iloc[0]} tokens, loss {number(loss, 2)}", fontsize=9)
        axes.margins(x=0.12)
        axes.set_xlabel("added loss")
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    grid[0, 0].set_yticks(part.index, [_direction(row) for row in part.itertuples()])
    grid[0, 0].invert_yaxis()
    figure.suptitle(title, fontsize=11)
    return figure


def _direction(row) -> str:
    if row.direction == "random":
        return f"random, seed {row.seed}"
    return f"{METHODS[row.direction]}, {ALIGNMENTS[row.alignment]}"


def loss_tokens(table: pd.DataFrame, title: str) -> Figure:
    """Ours: the next tokens whose loss grows most, beside what random directions add to the same."""
    panels = [("kmeans", "first"), ("das", "first")]
    figure, grid = plt.subplots(1, len(panels), figsize=(9.8, 5.6))
    for axes, (direction, alignment) in zip(grid, panels, strict=True):
        rows = table[(table["direction"] == direction) & (table["alignment"] == alignment)].sort_values("rank")
        places = np.arange(len(rows))
        axes.barh(places, rows["delta"], height=0.5, color=METHOD_COLOURS[direction], label="the direction")
        axes.barh(places + 0.4, rows["delta_random"], height=0.3, color=METHOD_COLOURS["random"], label="random directions")
        names = [f"{token_name(token)} ({count})" for token, count in zip(rows["token"], rows["count"], strict=True)]
        axes.set_yticks(places, names, fontsize=9)
        axes.invert_yaxis()
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_title(f"{METHODS[direction]}, {ALIGNMENTS[alignment]}", fontsize=10)
        axes.set_xlabel("added loss (nat)")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.11), ncols=2, fontsize=8)
    figure.suptitle(title, fontsize=11)
    return figure


def loss_item(file: str, tables: Mapping[str, pd.DataFrame], title: str) -> Figure:
    """Return the added loss by direction, or the tokens that it concerns most."""
    if file.endswith("tokens"):
        return loss_tokens(tables["se_text_loss_tokens"], title)
    return loss_bars(tables["se_text_loss"], title)
