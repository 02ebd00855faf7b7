"""Year-by-year heatmaps and layer-by-head maps, in the paper's colours, ranges and ticks (``plot_style.json``)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from recircuit.figures.style import plt
from recircuit.tasks.corpus import word_data

YY_TICKS = list(range(2, 99, 5))  # the paper's 2, 7, 12, ..., 97
Limits = tuple[float, float] | None


class Panel(NamedTuple):
    """One heatmap: years [rows yy, columns predicted year], its title and its colour limits (None: from the data)."""

    years: pd.DataFrame
    title: str
    limits: Limits = None


def published_limits(name: str, published: bool) -> Limits:
    """Return the paper's colour limits for a picture of its own model; None for another model, whose effects differ."""
    limits = word_data("greater_than/plot_style")["ranges"][name] if published else None
    return tuple(limits) if limits else None


def matrix(rows: pd.DataFrame, value: str = "prob") -> pd.DataFrame:
    """Turn rows with ``yy``, ``pred`` and a value into a matrix: YY down, predicted year across."""
    return rows.pivot(index="yy", columns="pred", values=value).sort_index()


def year_panel(axes: Axes, panel: Panel, cmap: str, *, symmetric: bool) -> AxesImage:
    """Draw one heatmap; the first YY is on top. A missing YY is an empty row."""
    wide = panel.years.reindex(range(int(panel.years.index.min()), int(panel.years.index.max()) + 1))
    values = wide.to_numpy(float)
    low, high = panel.limits or _limits(values, symmetric)
    first, last = wide.index[0], wide.index[-1]
    box = (-0.5, 99.5, last + 0.5, first - 0.5)
    image = axes.imshow(values, cmap=cmap, vmin=low, vmax=high, extent=box, aspect="auto", interpolation="nearest")
    axes.set_yticks(
        [y for y in YY_TICKS if first <= y <= last], [f"{y:02d}" for y in YY_TICKS if first <= y <= last], fontsize=7
    )
    axes.set_xticks(range(0, 100, 10), [f"{y:02d}" for y in range(0, 100, 10)], fontsize=8)
    axes.set_title(panel.title, fontsize=10)
    axes.spines[:].set_visible(False)
    return image


def shared_limits(years: pd.DataFrame) -> tuple[float, float]:
    """Return colour limits of probabilities that several panels can share."""
    return _limits(years.to_numpy(float), symmetric=False)


def _limits(values: np.ndarray, symmetric: bool) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    if symmetric:
        # The outermost hundredth may saturate: one cell must not grey out the rest.
        most = float(np.quantile(np.abs(finite), 0.99)) or 1.0
        return -most, most
    return 0.0, float(np.quantile(finite, 0.999)) or 1.0


def year_maps(
    panels: Sequence[Panel], title: str, *, cmap: str = "Blues", symmetric: bool = False, columns: int = 2, label: str = ""
) -> Figure:
    """Draw year heatmaps side by side, each with its own scale."""
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(4.6 * columns + 0.6, 4.0 * rows + 0.6), squeeze=False)
    for axes, panel in zip(grid.flat, panels, strict=False):
        image = year_panel(axes, panel, cmap, symmetric=symmetric)
        figure.colorbar(image, ax=axes, shrink=0.85, label=label)
        axes.set_xlabel("predicted year")
        axes.set_ylabel("YY")
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    figure.suptitle(title)
    return figure


# ---- path patching --------------------------------------------------------------------------------------------------


def sender_matrix(ipp: pd.DataFrame, stage: str) -> pd.DataFrame:
    """Return a stage's effects: layers down, heads and the MLP across; cells that no path reaches are empty.

    Where the token itself is a sender it has the first row, its cell in the first column.
    """
    rows = ipp[ipp["stage"] == stage].copy()
    rows.loc[rows["sender_kind"] == "embed", "sender_head"] = 0  # a row of its own, above layer 0
    rows["column"] = rows["sender_head"].astype("Float64").fillna(np.inf).astype(float)
    rows.loc[~rows["eligible"], "delta_pd"] = np.nan
    return rows.pivot(index="sender_layer", columns="column", values="delta_pd").sort_index().sort_index(axis=1)


def sender_panel(axes: Axes, values: pd.DataFrame, title: str, limit: float) -> AxesImage:
    """Draw a stage: red lowers the probability difference."""
    image = axes.imshow(values.to_numpy(float), cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
    axes.set_facecolor("#eeeeee")
    names = ["MLP" if np.isinf(c) else f"{int(c)}" for c in values.columns]
    axes.set_xticks(range(len(names)), names, fontsize=8)
    axes.set_yticks(range(len(values)), ["token" if layer < 0 else layer for layer in values.index], fontsize=8)
    axes.set_title(title, fontsize=10)
    axes.axvline(len(names) - 1.5, color="white", linewidth=2)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return image


def sender_maps(panels: Sequence[tuple[pd.DataFrame, str, float | None]], title: str, *, columns: int = 2) -> Figure:
    """Draw stages (effects, title, limit) side by side; without a limit the scale is the stage's largest effect."""
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    n, m = panels[0][0].shape
    size = max(6.4, columns * max(3.4, 0.42 * m + 1.7)), rows * max(2.6, 0.3 * n + 1.5) + 0.5
    figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for axes, (values, name, limit) in zip(grid.flat, panels, strict=False):
        largest = float(np.nanmax(np.abs(values.to_numpy(float)))) if values.notna().to_numpy().any() else 1.0
        image = sender_panel(axes, values, name, limit or largest or 1.0)
        figure.colorbar(image, ax=axes, shrink=0.9).set_label("change of the\nprobability difference", fontsize=8)
        axes.set_xlabel("head, MLP")
        axes.set_ylabel("layer")
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    figure.suptitle(title)
    return figure
