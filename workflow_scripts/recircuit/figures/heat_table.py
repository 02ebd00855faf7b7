"""Tables as pictures: numbers in cells whose colour says how large they are."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure


def heat_table(
    values: np.ndarray,
    texts: Sequence[Sequence[str]],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    title: str,
    cmap: str,
    norm: Normalize,
    row_label: str = "",
    column_label: str = "",
    cell: tuple[float, float] = (1.35, 0.36),
    rules: Sequence[int] = (),
) -> Figure:
    """Draw ``values`` [r c] (NaN: an empty cell) with a text in each cell; ``rules`` are rows below which a line goes."""
    n, m = values.shape
    widest = max(len(row) for row in rows) * 0.085
    figure, axes = plt.subplots(figsize=(m * cell[0] + widest + 0.6, n * cell[1] + 1.2))
    shown = plt.get_cmap(cmap)(norm(np.nan_to_num(values)))
    shown[np.isnan(values)] = (1, 1, 1, 1)
    edges = np.arange(m + 1) - 0.5, np.arange(n + 1) - 0.5
    axes.pcolormesh(*edges, shown)  # an image would be blown up to millions of points
    axes.set(xlim=(-0.5, m - 0.5), ylim=(n - 0.5, -0.5))
    for i in range(n):
        for j in range(m):
            dark = np.dot(shown[i, j, :3], (0.299, 0.587, 0.114)) < 0.55
            axes.text(j, i, texts[i][j], ha="center", va="center", color="white" if dark else "black", fontsize=9)
    axes.set_xticks(range(m), columns)
    axes.set_yticks(range(n), rows)
    axes.xaxis.set_ticks_position("top")
    axes.xaxis.set_label_position("top")
    axes.set_xlabel(column_label)
    axes.set_ylabel(row_label)
    axes.set_xticks(edges[0], minor=True)
    axes.set_yticks(edges[1], minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    for row in rules:
        axes.axhline(row + 0.5, color="black", linewidth=0.8)
    figure.suptitle(title, fontsize=11)
    return figure
