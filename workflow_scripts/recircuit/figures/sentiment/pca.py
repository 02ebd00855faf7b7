"""Words in the plane of the training adjectives' first two principal components, with labels that keep clear of each other."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from recircuit.figures.sentiment.look import CENTROID, NEGATIVE, POSITIVE
from recircuit.figures.style import number, plt

PANELS = (("ADJ", "adjectives it was not fitted to"), ("VRB", "verbs"))
KEY = {
    "positive, in sample": ("o", POSITIVE), "negative, in sample": ("o", NEGATIVE),
    "positive, out of sample": ("s", POSITIVE), "negative, out of sample": ("s", NEGATIVE), "2-means centroid": ("X", CENTROID),
}  # fmt: skip
SIDE = 6.2  # inches of a panel, its axis labels included
DRAWN = 5.4  # inches between its axes, at the least
SIZE = 6.5  # points of a word


def pca_item(file: str, points: pd.DataFrame, title: str) -> Figure:
    """Return the picture of the embedding (published), or of the later layers."""
    return words(points[(points["layer"] == 0) == (file == "a1-pca")], title)


def words(points: pd.DataFrame, title: str) -> Figure:
    """Draw each layer in a row: training adjectives with other adjectives, and with verbs."""
    layers = sorted(points["layer"].unique())
    figure, grid = plt.subplots(len(layers), 2, figsize=(2 * SIDE + 1, len(layers) * SIDE + 1.2), squeeze=False)
    for axes_of_layer, layer in zip(grid, layers, strict=True):
        rows = points[points["layer"] == layer]
        for axes, (position, name) in zip(axes_of_layer, PANELS, strict=True):
            shown = rows[(rows["set"] != "test") | (rows["position"] == position)]
            panel(axes, shown, f"layer {layer}: training adjectives and {name}")
    handles = [
        plt.Line2D([], [], linestyle="", marker=marker, color=colour, markersize=7, label=label)
        for label, (marker, colour) in KEY.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=9)
    figure.suptitle(title, fontsize=11)
    return figure


def panel(axes: Axes, rows: pd.DataFrame, name: str) -> None:
    """Draw the words and centroids of one panel."""
    for kind, marker, size in (("centroid", "X", 130), ("train", "o", 16), ("test", "s", 16)):
        part = rows[rows["set"] == kind]
        colours = CENTROID if kind == "centroid" else [POSITIVE if label else NEGATIVE for label in part["label"]]
        axes.scatter(part["pc1"], part["pc2"], marker=marker, s=size, c=colours, alpha=0.85)
    axes.margins(0.1)
    part = rows[rows["set"] != "centroid"]
    low, high = (np.array(limits) for limits in zip(axes.get_xlim(), axes.get_ylim(), strict=True))
    at = (part[["pc1", "pc2"]].to_numpy() - low) / (high - low)
    for (x, y), (a, b), word, label in zip(at, spread(at, list(part["word"])), part["word"], part["label"], strict=True):
        colour = POSITIVE if label else NEGATIVE
        axes.plot([x, a], [y, b], transform=axes.transAxes, color=colour, linewidth=0.3, alpha=0.5, zorder=1)
        axes.text(a, b, word, transform=axes.transAxes, fontsize=SIZE, color=colour, ha="center", va="center")
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), title=name)
    shares = [f"{number(100 * rows[column].iloc[0], 1)} %" for column in ("share1", "share2")]
    axes.set(xlabel=f"PC 1 ({shares[0]} of the variance)", ylabel=f"PC 2 ({shares[1]})")


def spread(at: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    """Return where labels go [n 2] so that none covers another one or a point; ``at`` [n 2] in shares of a panel's sides.

    Each label takes the first free place beside its point, ever farther away, and rather on the side away from the point's
    neighbours; those at the edge of a crowd come first.
    """
    em, n = SIZE / 72 / DRAWN, len(at)
    half = np.stack([np.array([0.31 * em * len(text) + 0.2 * em for text in texts]), np.full(n, 0.62 * em)], 1)
    apart = at[:, None] - at
    crowd = np.exp(-np.square(apart / (8 * em)).sum(2, keepdims=True))
    out = (crowd * apart).sum(1) + np.array([0, 1e-6])
    placed, sizes = list(at), [np.full(2, 0.4 * em)] * n  # boxes that are taken: those of the points to begin with
    found = np.empty_like(at)
    for i in np.argsort(-np.linalg.norm(out, axis=1), kind="stable"):
        angles = np.arctan2(out[i, 1], out[i, 0]) + np.pi / 12 * np.array([k // 2 * (-1) ** k for k in range(1, 25)])
        circle = np.stack([np.cos(angles), np.sin(angles)], 1)
        places = np.concatenate([at[i] + circle * (half[i] + step * em) for step in np.arange(0.5, 40, 0.4)])
        inside = (np.abs(places - 0.5) <= 0.5 - half[i]).all(1)
        gaps = np.abs(places[:, None] - np.array(placed)) - np.array(sizes) - half[i]
        free = inside & ~(gaps < 0).all(2).any(1)
        found[i] = places[np.argmax(free)]
        placed.append(found[i])
        sizes.append(half[i])
    return found
