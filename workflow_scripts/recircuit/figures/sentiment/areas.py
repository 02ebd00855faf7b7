"""Shares of labels by activation on running text (figure 2b), the accuracy in the tails, and shares of steered texts."""

import textwrap
from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from recircuit.figures.heat_table import heat_table
from recircuit.figures.sentiment.look import METHOD_COLOURS, METHODS, NEGATIVE, POSITIVE
from recircuit.figures.style import number, plt

LABELS = ("negative", "neutral", "positive")
COLOURS = dict(zip(LABELS, (NEGATIVE, "#d9d9d9", POSITIVE), strict=True))
CUTS = 50  # of the range of activations, as published
PUBLISHED = "kmeans"
SHOWN = (-20, -10, 0, 10, 20)  # coefficients of which a text is shown


def shares(activation: Sequence[float], labels: Sequence[str], cuts: int = CUTS) -> pd.DataFrame:
    """Return the share of each label, and how many are labelled, by the middle of equal cuts of the activations' range.

    Unlabelled activations bound the range but count no further; a cut without a label is left out.
    """
    values = np.asarray(activation, float)
    edges = np.linspace(values.min(), values.max(), cuts + 1)
    where = np.clip(np.searchsorted(edges, values, "right") - 1, 0, cuts - 1)
    return _normed(pd.crosstab((edges[:-1] + edges[1:])[where] / 2, np.asarray(labels)))


def shares_of_counts(histogram: pd.DataFrame, cuts: int = CUTS) -> pd.DataFrame:
    """Return the same of all tokens, from a histogram by label (rows of ``se_text_hist``) of a multiple of ``cuts`` bins."""
    rows = histogram[histogram["subset"].isin(LABELS)]
    width = rows["bin"].nunique() // cuts
    counts = rows.assign(cut=rows["bin"] // width).groupby(["cut", "subset"])["count"].sum().unstack()
    bounds = rows.assign(cut=rows["bin"] // width).groupby("cut").agg(left=("left", "min"), right=("right", "max"))
    return _normed(counts.set_axis(bounds.loc[counts.index].mean(axis=1)))


def _normed(counts: pd.DataFrame) -> pd.DataFrame:
    counts = counts.reindex(columns=list(LABELS), fill_value=0).sort_index()
    total = counts.sum(axis=1)
    return counts.div(total.where(total > 0), axis=0).assign(n=total)[total > 0]


def stacked(axes: Axes, found: pd.DataFrame) -> None:
    """Draw cumulative shares over the index: negative below, positive on top."""
    parts = [found[label].to_numpy() for label in LABELS]
    axes.stackplot(found.index.to_numpy(), parts, colors=[COLOURS[label] for label in LABELS], labels=LABELS, linewidth=0)
    axes.set(xlim=(found.index.min(), found.index.max()), ylim=(0, 1))


def _legend(figure: Figure, names: Mapping[str, str] = COLOURS) -> None:
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in names.values()]
    figure.legend(handles, list(names), loc="outside lower center", ncols=len(names), fontsize=9)


def published_area(samples: pd.DataFrame, title: str) -> Figure:
    """F2b: labels of sampled tokens by the cosine with the K-means direction of layer 1."""
    rows = samples[samples["method"] == PUBLISHED]
    found = shares(rows["activation"], rows["label"])
    figure, axes = plt.subplots(figsize=(7.6, 4.4))
    stacked(axes, found)
    axes.set(xlabel="activation (cosine with the direction)", ylabel="share of labelled tokens")
    axes.set_title(f"{METHODS[PUBLISHED]}, {int(found['n'].sum())} labelled of {len(rows)} sampled tokens", fontsize=10)
    _legend(figure)
    figure.suptitle(title, fontsize=11)
    return figure


def all_areas(samples: pd.DataFrame, histogram: pd.DataFrame, title: str) -> Figure:
    """Ours: every method, of the samples above and of all tokens below."""
    methods = [name for name in METHODS if name in set(samples["method"])]
    figure, grid = plt.subplots(2, len(methods), figsize=(2.7 * len(methods) + 0.6, 5.4), sharey=True, squeeze=False)
    cosines = histogram[histogram["kind"] == "cosine"]
    for column, method in zip(grid.T, methods, strict=True):
        rows = samples[samples["method"] == method]
        both = (shares(rows["activation"], rows["label"]), shares_of_counts(cosines[cosines["method"] == method]))
        for axes, found, what in zip(column, both, ("sampled", "all"), strict=True):
            stacked(axes, found)
            axes.set_title(f"{METHODS[method]}, {what}\n{int(found['n'].sum())} labelled", fontsize=9)
            axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        column[1].set_xlabel("activation")
    for axes in grid[:, 0]:
        axes.set_ylabel("share of labelled tokens")
    _legend(figure)
    figure.suptitle(title, fontsize=11)
    return figure


def accuracy_table(table: pd.DataFrame, title: str) -> Figure:
    """F2b's table: how many labelled tokens in the tails have the sign that is more frequent there."""
    methods = [name for name in METHODS if name in set(table["method"])]
    kinds = {"samples": "sampled tokens, as published", "tokens": "all tokens in the tails"}
    found = table.set_index(["method", "over"])
    values = np.array([[found.loc[(method, kind), "accuracy"] for kind in kinds] for method in methods], float)
    texts = [[_cell(found.loc[(method, kind)]) for kind in kinds] for method in methods]
    columns = [f"{name}\naccuracy [95 %]: low tail, high tail" for name in kinds.values()]
    rows = [METHODS[method] for method in methods]
    return heat_table(values, texts, rows, columns, title=title, cmap="Blues", norm=Normalize(0, 1.4), cell=(4.6, 0.42))


def _cell(row: pd.Series) -> str:
    tails = [
        "none" if row[f"n_{tail}"] == 0 else f"{number(100 * row[f'share_{tail}'], 0)} % of {row[f'n_{tail}']}"
        for tail in ("low", "high")
    ]
    if pd.isna(row["accuracy"]):
        return f"no value: {tails[0]}, {tails[1]}"
    low, high = (number(100 * row[f"ci_{end}"], 1) for end in ("lo", "hi"))
    return f"{number(100 * row['accuracy'], 1)} % [{low}, {high}]: {tails[0]}, {tails[1]}"


# ---- steering -------------------------------------------------------------------------------------------------------


def steered_shares(table: pd.DataFrame) -> pd.DataFrame:
    """Return shares of labels by coefficient, of one method's texts (rows of ``se_steering``)."""
    return _normed(pd.crosstab(table["coef"], table["label"]))


def steering(table: pd.DataFrame, title: str) -> Figure:
    """The appendix's figure: labels of texts by the coefficient of steering, and below the loss of these texts."""
    methods = [name for name in ("kmeans", "das") if name in set(table["method"])]
    look = {"height_ratios": (2, 1), "sharex": True, "sharey": "row", "squeeze": False}
    figure, grid = plt.subplots(2, len(methods), figsize=(5.2 * len(methods), 6.2), **look)
    for (area, line), method in zip(grid.T, methods, strict=True):
        rows = table[table["method"] == method]
        stacked(area, steered_shares(rows))
        area.axvline(0, color="black", linewidth=0.8, linestyle="--")
        share = rows.loc[rows["coef"].idxmax(), "relative"]
        area.set_title(f"{METHODS[method]}, {rows['sample'].nunique()} texts each; {rows['coef'].max()} is {number(share, 2)} "
                       "of the stream's length", fontsize=9)  # fmt: skip
        losses = rows.groupby("coef")["loss"].agg(["mean", "sem"])
        line.plot(losses.index, losses["mean"], color=METHOD_COLOURS[method], linewidth=1.4)
        low, high = losses["mean"] - 1.96 * losses["sem"], losses["mean"] + 1.96 * losses["sem"]
        line.fill_between(losses.index, low, high, color=METHOD_COLOURS[method], alpha=0.25, linewidth=0)
        line.set_xlabel("coefficient")
    grid[0, 0].set_ylabel("share of texts")
    grid[1, 0].set_ylabel("loss without steering\n(nat per token)")
    _legend(figure)
    figure.suptitle(title, fontsize=11)
    return figure


def steered_texts(table: pd.DataFrame, title: str, coefficients: Sequence[int] = SHOWN) -> Figure:
    """Ours: what is written first at some coefficients, in the colour of its label."""
    methods = [name for name in ("kmeans", "das") if name in set(table["method"])]
    first = table[table["sample"] == 0].set_index(["method", "coef"])
    lines = []
    for method, coefficient in product(methods, coefficients):
        row = first.loc[(method, coefficient)]
        written = row["text"].replace("\n", "↵").replace("$", "\\$")
        text = textwrap.wrap(written, 92, max_lines=3, placeholder=" …") or ["(nothing)"]
        colour = "0.35" if row["label"] == "neutral" else COLOURS[row["label"]]
        lines.append((f"{METHODS[method]}, {number(coefficient, 0)}", "\n".join(text), colour, len(text)))
    height = sum(count + 0.6 for *_, count in lines) + 1
    figure, axes = plt.subplots(figsize=(7.6, 0.2 * height + 0.6))
    axes.set(xlim=(0, 100), ylim=(height, 0))
    axes.axis("off")
    place = 0.6
    for name, text, colour, count in lines:
        axes.text(0, place, name, va="top", fontsize=9)
        axes.text(15, place, text, va="top", fontsize=9, color=colour)
        place += count + 0.6
    figure.suptitle(f"{title}\n{table['prompt'].iloc[0]} …", fontsize=11)
    return figure


# ---- items ----------------------------------------------------------------------------------------------------------


def area_item(file: str, tables: Mapping[str, pd.DataFrame], title: str) -> Figure:
    """Return figure 2b, its table, or the areas of every method."""
    if file == "f2b-areas":
        return published_area(tables["se_text_samples"], title)
    if file == "f2b-accuracy":
        return accuracy_table(tables["se_text_accuracy"], title)
    return all_areas(tables["se_text_samples"], tables["se_text_hist"], title)


def steering_item(file: str, tables: Mapping[str, pd.DataFrame], title: str) -> Figure:
    """Return the shares of labels by coefficient, or examples of texts."""
    return (steered_texts if file.endswith("texts") else steering)(tables["se_steering"], title)
