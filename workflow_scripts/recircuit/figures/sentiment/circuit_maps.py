"""Heat-maps of heads and positions with one scale of signs: red negative, white zero, blue positive."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import FigureBase

from recircuit.figures.sentiment.look import SIGNED

MOST_TICKS = 24


def head_matrix(rows: pd.DataFrame, value: str) -> pd.DataFrame:
    """Return layers down, heads across."""
    return rows.pivot(index="layer", columns="head", values=value).sort_index().sort_index(axis=1)


def position_matrix(rows: pd.DataFrame, value: str) -> pd.DataFrame:
    """Return layers down, positions across."""
    return rows.pivot(index="layer", columns="position", values=value).sort_index().sort_index(axis=1)


def position_names(places: pd.DataFrame) -> dict[int, str]:
    """Return the names of positions of the paper's training prompts, from left to right (``se_positions``)."""
    rows = places.query("set == 'movie' and split == 'train' and variant == 'paper' and row == 0").sort_values("position")
    return dict(zip(rows["position"].astype(int), rows["name"], strict=True))


def signed_panel(
    figure: FigureBase,
    axes: Axes,
    values: pd.DataFrame,
    title: str,
    label: str,
    names: tuple[str, str],
    *,
    limit: float | None = None,
    turned: bool = False,
) -> None:
    """Draw a matrix with its own colour bar, symmetric around zero; ``names`` are those of rows and columns."""
    cells = values.to_numpy(float)
    limit = limit or float(np.nanmax(np.abs(cells), initial=0.0)) or 1.0
    image = axes.imshow(cells, cmap=SIGNED, vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
    figure.colorbar(image, ax=axes, shrink=0.9, pad=0.02).set_label(label, fontsize=8)
    size = 8 if max(values.shape) <= 16 else 7
    for labels, put, angle in ((values.columns, axes.set_xticks, 90 if turned else 0), (values.index, axes.set_yticks, 0)):
        every = 1 if len(labels) <= MOST_TICKS else 2
        put(range(0, len(labels), every), [str(label) for label in labels[::every]], fontsize=size, rotation=angle)
    axes.set_ylabel(names[0])
    axes.set_xlabel(names[1])
    axes.set_title(title, fontsize=10)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
