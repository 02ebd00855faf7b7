"""Neurons whose output weights lie along the direction, and directions from the neutral to one side (spec 3.14, 3.15)."""

import textwrap
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from recircuit.figures.heat_table import heat_table
from recircuit.figures.sentiment.look import METHODS, NEGATIVE, SIGNED
from recircuit.figures.style import number, plt

PUBLISHED = ((3, 1605), (5, 671), (6, 828), (6, 1237))  # annotated in the paper, of gpt2-small
BINS = 200  # or fewer, so that a bin has eight neurons of a layer on average
SHOWN = 20  # neurons of either tail in the table
SIDED = {
    "positive": "positive less neutral",
    "negative": "negative less neutral",
    "valence": "their sum",
    "sentiment": "their difference",
} | {name: METHODS[name] for name in ("mean_diff", "logistic_regression", "das", "kmeans", "pca")}


def name_of(layer: int, neuron: int) -> str:
    """Return a neuron's name as the paper writes it, such as L3N1605."""
    return f"L{layer}N{neuron}"


def annotated(table: pd.DataFrame, *, published: bool) -> pd.DataFrame:
    """Return the neurons to name: the paper's four, else the two lowest and the two highest."""
    if published:
        keys = pd.DataFrame(PUBLISHED, columns=["layer", "neuron"])
        return keys.merge(table.astype({"layer": int, "neuron": int}), on=["layer", "neuron"])
    order = table.sort_values(["cosine", "layer", "neuron"])
    return pd.concat([order.head(2), order.tail(2)])


def histogram(table: pd.DataFrame, title: str, *, published: bool) -> Figure:
    """Appendix: cosines of all neurons by layer, as shares of each layer's neurons in 200 bins and as boxes."""
    layers = sorted(table["layer"].unique())
    colours = dict(zip(layers, plt.get_cmap("viridis")(np.linspace(0, 0.92, len(layers))), strict=True))
    figure, (top, boxes) = plt.subplots(
        2, 1, figsize=(9.2, 4.4 + 0.34 * len(layers)), sharex=True, height_ratios=[3.6, 0.34 * len(layers) + 0.8]
    )
    both = table[["cosine", "cosine_random"]].to_numpy()
    bins = min(BINS, len(table) // len(layers) // 8)
    edges = np.linspace(both.min(), both.max(), bins + 1)
    share = np.histogram(table["cosine_random"], edges)[0] * 100 / len(table)
    top.stairs(share, edges, fill=True, color="0.85", label="random direction,\nall layers")
    for layer in layers:
        own = table.loc[table["layer"] == layer, "cosine"]
        share = np.histogram(own, edges)[0] * 100 / len(own)
        top.stairs(share, edges, color=colours[layer], linewidth=1, label=f"layer {layer}")
    top.set(ylabel=f"% of the layer's neurons, {bins} bins")
    top.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8)
    _boxes(boxes, table, layers, colours)
    _name(boxes, annotated(table, published=published), layers)
    boxes.set(xlabel="cosine of a neuron's output weights with the direction")
    figure.suptitle(title, fontsize=11)
    return figure


def _boxes(axes: Axes, table: pd.DataFrame, layers: list[int], colours: dict) -> None:
    parts = [table.loc[table["layer"] == layer, "cosine"].to_numpy() for layer in layers]
    drawn = axes.boxplot(
        parts, orientation="horizontal", positions=range(len(layers)), widths=0.6, patch_artist=True,
        flierprops={"marker": ".", "markersize": 2, "markeredgecolor": "0.5"}, medianprops={"color": "black"},
    )  # fmt: skip
    for box, layer in zip(drawn["boxes"], layers, strict=True):
        box.set(facecolor=colours[layer], alpha=0.7)
    axes.set_yticks(range(len(layers)), layers)
    axes.set(ylabel="layer", ylim=(len(layers) - 0.2, -0.8))


def _name(axes: Axes, named: pd.DataFrame, layers: list[int]) -> None:
    """Mark neurons, with their names above and below in turn, so that neighbours do not cover each other."""
    for _, own in named.sort_values("cosine").groupby("layer"):
        for i, row in enumerate(own.itertuples()):
            y, up = layers.index(row.layer), 1 if i % 2 else -1
            axes.plot(row.cosine, y, "o", color=NEGATIVE, markersize=4)
            axes.annotate(
                name_of(row.layer, row.neuron), (row.cosine, y), (0, 10 * up), textcoords="offset points", fontsize=8,
                ha="center", va="center", color=NEGATIVE,
            )  # fmt: skip
    axes.margins(x=0.06)


def extremes(table: pd.DataFrame, title: str) -> Figure:
    """Appendix: the twenty neurons with the lowest and with the highest cosines."""
    order = table.sort_values(["cosine", "layer", "neuron"])
    low, high = order.head(SHOWN), order.tail(SHOWN)[::-1]
    n, texts, values = min(len(low), len(high)), [], []
    for a, b in zip(low.itertuples(), high.itertuples(), strict=True):
        texts.append([cell for r in (a, b) for cell in (name_of(r.layer, r.neuron), number(r.cosine, 3), number(r.norm, 2))])
        values.append([cell for r in (a, b) for cell in (np.nan, r.cosine, np.nan)])
    limit = 1.3 * float(np.nanmax(np.abs(values)))
    columns = ["lowest", "cosine", "length", "highest", "cosine", "length"]
    rows = [str(i + 1) for i in range(n)]
    shown = {"cmap": SIGNED, "norm": Normalize(-limit, limit), "cell": (1.15, 0.3)}
    return heat_table(np.array(values), texts, rows, columns, title=title, **shown)


def one_sided(table: pd.DataFrame, title: str) -> Figure:
    """Ours: cosines among the one-sided directions, their sum and difference, and the fitted directions of layer 1."""
    names = [name for name in SIDED if (table["a"] == name).any()]
    wide = table.pivot(index="a", columns="b", values="cosine").loc[names, names].to_numpy(float)
    length = table.drop_duplicates("a").set_index("a")["length"]
    rows = [SIDED[name] + (f" ({number(length[name], 1)})" if i < 4 else "") for i, name in enumerate(names)]
    columns = [textwrap.fill(SIDED[name], 11) for name in names]
    texts = [[number(value, 2) for value in line] for line in wide]
    shown = {"cmap": SIGNED, "norm": Normalize(-1, 1), "cell": (0.95, 0.36)}
    return heat_table(wide, texts, rows, columns, title=title, rules=[3], **shown)


def neuron_item(file: str, tables: Mapping[str, pd.DataFrame], title: str, *, published: bool) -> Figure:
    """Return the histogram, the table of extremes, or the one-sided directions."""
    if file.endswith("one-sided"):
        return one_sided(tables["se_one_sided"], title)
    if file.endswith("table"):
        return extremes(tables["se_neurons"], title)
    return histogram(tables["se_neurons"], title, published=published)
