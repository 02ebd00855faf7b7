"""Patching of heads, positions and paths as heat-maps, and the heads that matter most as bars (spec 3.5, 3.6)."""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from recircuit.experiments.sentiment.roles import DATASETS, FINAL, Head, heads_in, heads_of
from recircuit.figures.attention_maps import shown_token
from recircuit.figures.sentiment.circuit_maps import head_matrix, position_matrix, signed_panel
from recircuit.figures.sentiment.look import NEGATIVE, POSITIVE
from recircuit.figures.style import number, plt

COMPONENTS = {"z": "output z", "q": "query", "k": "key", "v": "value", "pattern": "attention pattern"}
SITES = {"resid_pre": "stream entering the layer", "attn_out": "attention output", "mlp_out": "MLP output"}
NAMES = {
    "movie": "15 training pairs, 5 pairs of answers",
    "movie_full": "24 training pairs, 5 pairs of answers",
    "circuit": "25 pairs of the notebook, 1 pair of answers",
    "classification": "classification prompts",
}
DENOISING, NOISING = "logit difference restored (%)", "change of the logit difference (%)"
SHOWN = 15  # bars
WIDE = 24  # positions that a panel may have beside two others
LEAST = 1.0  # percent at either end of a path's scale: a hundredth of a percent is no colour
INSET = 0.06  # of a cell, between it and its frame: neighbours keep frames of their own
ITEMS = {
    "a11-head-patching": ("heads", "movie"),
    "a12-position-patching": ("positions", "movie"),
    "a13-paths-to-logits": ("final", "movie"),
    "a14-paths-to-values": ("values", "movie"),
    "a15-paths-by-position": ("by position", "movie"),
    "a20-classification-heads": ("heads", "classification"),
    "a21-classification-positions": ("positions", "classification"),
    "a22-classification-paths": ("final", "classification"),
    "x31-notebook-heads": ("heads", "circuit"),
    "x32-notebook-positions": ("positions", "circuit"),
    "x33-notebook-paths": ("final", "circuit"),
    "x34-data-sets": ("sets", ""),
    "x36-heads-by-position": ("cells", "movie"),
}


def circuit_item(file: str, tables: Mapping[str, pd.DataFrame], title: str) -> Figure:
    """Return the picture of an item, from ``se_act_patching``, ``se_path_patching``, ``se_circuit`` and ``se_positions``."""
    kind, dataset = ITEMS[file]
    patched, paths, circuit = (tables[name] for name in ("se_act_patching", "se_path_patching", "se_circuit"))
    if kind == "sets":
        return data_sets(patched, title)
    patched, paths = (table[table["dataset"] == dataset] for table in (patched, paths))
    heading = f"{title}\n{NAMES[dataset]}, n = {int(paths['n'].iloc[0])} prompts"
    if kind == "positions":
        return position_maps(patched, heading)
    if kind == "cells":
        return cell_map(patched[patched["component"] == "z_position"], heading)
    framed = heads_of(circuit, dataset=dataset)
    if kind == "heads":
        return head_maps(patched, framed, heading)
    if kind == "final":
        return final_paths(paths, framed, heading)
    if kind == "values":
        return value_maps(paths, framed, summary_of(tables["se_positions"], dataset), heading)
    return position_paths(paths, heading)


def summary_of(positions: pd.DataFrame, dataset: str) -> int:
    """Return where a data set's prompts have their summary (``se_positions``)."""
    key = dict(zip(("set", "split", "variant"), DATASETS[dataset], strict=True)) | {"row": 0, "name": "SUM"}
    return int(positions.loc[(positions[list(key)] == pd.Series(key)).all(axis=1), "position"].iloc[0])


# ---- activation patching --------------------------------------------------------------------------------------------


def size_of(matrix: pd.DataFrame) -> tuple[float, float]:
    """Return the inches of a panel, by its rows and columns."""
    n, m = matrix.shape
    return max(3.6, 0.24 * m + 1.6), max(2.7, 0.2 * n + 1.1)


def head_maps(patched: pd.DataFrame, framed: Iterable[Head], title: str) -> Figure:
    """Draw a map per component of the heads: what the clean one restores in the corrupted run."""
    maps = {name: head_matrix(patched[patched["component"] == name], "value") for name in COMPONENTS}
    width, height = size_of(maps["z"])
    figure, grid = plt.subplots(2, 3, figsize=(3 * width, 2 * height + 0.6))
    for axes, (name, matrix) in zip(grid.flat, maps.items(), strict=False):
        signed_panel(figure, axes, matrix, COMPONENTS[name], DENOISING, ("layer", "head"))
        frame(axes, matrix, framed)
    grid.flat[-1].set_visible(False)
    figure.suptitle(title)
    return figure


def frame(axes: Axes, matrix: pd.DataFrame, heads: Iterable[Head]) -> None:
    """Put a frame around some heads of a map."""
    rows, columns = list(matrix.index), list(matrix.columns)
    for layer, head in heads:
        if layer in rows and head in columns:
            corner = columns.index(head) - 0.5 + INSET, rows.index(layer) - 0.5 + INSET
            axes.add_patch(Rectangle(corner, 1 - 2 * INSET, 1 - 2 * INSET, fill=False, edgecolor="black", linewidth=0.8))


def token_names(rows: pd.DataFrame, position: str, token: str) -> dict[int, str]:
    """Return the labels of positions: the token and where it stands."""
    first = rows.drop_duplicates(position)
    return {int(i): f"{shown_token(text)} {int(i)}" for i, text in zip(first[position], first[token], strict=True)}


def position_maps(patched: pd.DataFrame, title: str) -> Figure:
    """Draw a map per place of a layer: what a clean position restores in the corrupted run."""
    rows = patched[patched["position"].notna()]
    names = token_names(rows, "position", "token")
    maps = {name: position_matrix(rows[rows["component"] == name], "value").rename(columns=names) for name in SITES}
    width, height = size_of(maps["resid_pre"])
    wide = len(names) > WIDE
    size = (width + 0.6, 3 * height + 2.6) if wide else (3 * width, height + 1.4)
    figure, grid = plt.subplots(3 if wide else 1, 1 if wide else 3, figsize=size, sharex=wide)
    for axes, (name, matrix) in zip(grid, maps.items(), strict=True):
        signed_panel(figure, axes, matrix, SITES[name], DENOISING, ("layer", ""), turned=True)
        axes.set_xticks(range(len(names)), list(matrix.columns), fontsize=7, rotation=90)  # every one of them
    figure.suptitle(title)
    return figure


def cell_map(rows: pd.DataFrame, title: str) -> Figure:
    """Draw the heads whose output at one position matters most: what the clean one restores in the corrupted run."""
    names = token_names(rows, "position", "token")
    chosen = most_moving(rows, ("layer", "head"), "position").rename(columns=names)
    figure, axes = plt.subplots(figsize=(0.36 * len(names) + 3.6, 5.2))
    signed_panel(figure, axes, chosen, "output z at one position", DENOISING, ("head", ""), turned=True)
    figure.suptitle(title)
    return figure


def most_moving(rows: pd.DataFrame, head: tuple[str, str], position: str) -> pd.DataFrame:
    """Return a map of the ``SHOWN`` heads, in their order in the model, with the largest effects at any position."""
    layer, index = head
    named = rows.assign(name=[f"{l}.{h}" for l, h in zip(rows[layer], rows[index], strict=True)])
    matrix = named.pivot(index="name", columns=position, values="value")
    order = matrix.abs().max(axis=1).sort_values(ascending=False, kind="stable").index[:SHOWN]
    return matrix.loc[sorted(order, key=lambda name: tuple(map(int, name.split("."))))]


# ---- paths ----------------------------------------------------------------------------------------------------------


def sender_map(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a map of senders, in percent; without the layers that no receiver hears."""
    matrix = 100 * rows.pivot(index="sender_layer", columns="sender_head", values="value").sort_index().sort_index(axis=1)
    receivers = rows["receivers"].iloc[0]
    return matrix if receivers == FINAL else matrix.loc[matrix.index < highest(receivers)]


def scale_of(matrix: pd.DataFrame) -> float:
    """Return the end of a map's scale in percent, ``LEAST`` or its largest effect."""
    return max(LEAST, float(matrix.abs().max(axis=None)))


def highest(receivers: str) -> int:
    """Return the layer of the highest head among receivers: the first that none of them hears."""
    return max(layer for layer, _ in heads_in(receivers))


def final_paths(paths: pd.DataFrame, framed: Iterable[Head], title: str) -> Figure:
    """Draw every head's path to the final stream, and the heads whose path the logit difference loses most by."""
    rows = paths[paths["receivers"] == FINAL]
    matrix = sender_map(rows)
    width, height = size_of(matrix)
    figure, (left, right) = plt.subplots(1, 2, figsize=(width + 4.6, max(height, 3.9) + 0.6), width_ratios=(width, 4.2))
    signed_panel(figure, left, matrix, "path to the final stream", NOISING, ("layer", "head"))
    frame(left, matrix, framed)
    bars(right, rows)
    figure.suptitle(title)
    return figure


def bars(axes: Axes, rows: pd.DataFrame) -> None:
    """Draw the most negative effects, the largest on top, with their intervals."""
    chosen = rows.sort_values("value").head(SHOWN)
    values, low, high = (100 * chosen[name].to_numpy(float) for name in ("value", "ci_lo", "ci_hi"))
    ends = np.maximum(0, [values - low, high - values])
    colours = [NEGATIVE if value < 0 else POSITIVE for value in values]
    axes.barh(range(len(chosen)), values, xerr=ends, color=colours, error_kw={"linewidth": 0.8, "capsize": 1.5})
    names = [f"{layer}.{head}" for layer, head in zip(chosen["sender_layer"], chosen["sender_head"], strict=True)]
    axes.set_yticks(range(len(chosen)), names, fontsize=8)
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel(f"{NOISING}, 95 % interval", fontsize=8)
    axes.set_title(f"the {len(chosen)} heads by which most is lost", fontsize=10)


def value_maps(paths: pd.DataFrame, framed: Iterable[Head], summary: int, title: str) -> Figure:
    """Draw every sender's path to the values of some heads: a map per set of receivers, and from the summary alone."""
    rows = paths[paths["receivers"] != FINAL]
    where = rows["sender_position"].fillna(-1).astype(int)
    panels = []
    for receivers in sorted(rows["receivers"].unique(), key=lambda name: heads_in(name)[::-1], reverse=True):
        own = rows[rows["receivers"] == receivers]
        for position in (-1, summary):
            here = own[where.loc[own.index] == position]
            if len(here) and highest(receivers):
                source = "all positions" if position < 0 else f"'{shown_token(here['sender_token'].iloc[0])}' ({position})"
                panels.append((sender_map(here), f"from {source}\nto values of {receivers.removeprefix('v: ')}"))
    if not panels:
        return unheard(title)
    columns = min(3, len(panels))
    n_rows = -(-len(panels) // columns)
    sizes = [size_of(matrix) for matrix, _ in panels]
    size = columns * max(width for width, _ in sizes), n_rows * (max(height for _, height in sizes) + 0.3) + 0.7
    figure, grid = plt.subplots(n_rows, columns, figsize=size, squeeze=False)
    for axes, (matrix, name) in zip(grid.flat, panels, strict=False):
        signed_panel(figure, axes, matrix, name, NOISING, ("layer", "head"), limit=scale_of(matrix))
        frame(axes, matrix, framed)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    figure.suptitle(title)
    return figure


def position_paths(paths: pd.DataFrame, title: str) -> Figure:
    """Draw the senders that matter most, each position alone, to the values of direct and of intermediate heads."""
    rows = paths[paths["sender_position"].notna()]
    counts = rows.groupby("receivers")["sender_position"].nunique()
    sets = [receivers for receivers in counts.index[counts > 1] if highest(receivers)]
    sets = sorted(sets, key=lambda name: heads_in(name)[::-1], reverse=True)
    if not sets:
        return unheard(title)
    names = token_names(rows, "sender_position", "sender_token")
    figure, grid = plt.subplots(1, len(sets), figsize=(0.36 * len(names) * len(sets) + 3.6, 5.2), squeeze=False)
    for axes, receivers in zip(grid[0], sets, strict=True):
        own = rows[(rows["receivers"] == receivers) & (rows["sender_layer"] < highest(receivers))]
        chosen = 100 * most_moving(own, ("sender_layer", "sender_head"), "sender_position").rename(columns=names)
        heard = receivers.removeprefix("v: ")
        limit = scale_of(chosen)
        signed_panel(figure, axes, chosen, f"to values of {heard}", NOISING, ("sender", ""), limit=limit, turned=True)
    figure.suptitle(title)
    return figure


def unheard(title: str) -> Figure:
    """Say that there is no such path."""
    figure, axes = plt.subplots(figsize=(6.4, 2.4))
    axes.text(0.5, 0.5, "all receivers are in layer 0: no head's output reaches their values", ha="center", va="center")
    axes.set_axis_off()
    figure.suptitle(title)
    return figure


# ---- data sets ------------------------------------------------------------------------------------------------------


def data_sets(patched: pd.DataFrame, title: str) -> Figure:
    """Draw each head's effect on the training pairs against that on the other sets, with both intervals."""
    z = patched[patched["component"] == "z"].assign(
        layer=lambda t: t["layer"].astype(int), head=lambda t: t["head"].astype(int)
    )
    tables = {name: rows.set_index(["layer", "head"]).sort_index() for name, rows in z.groupby("dataset")}
    others = [name for name in NAMES if name in tables and name != "movie"]
    figure, grid = plt.subplots(1, len(others), figsize=(4.2 * len(others), 4.3), squeeze=False)
    for axes, name in zip(grid[0], others, strict=True):
        x, y = tables["movie"], tables[name]
        ends = [np.maximum(0, [t["value"] - t["ci_lo"], t["ci_hi"] - t["value"]]) for t in (x, y)]
        axes.errorbar(x["value"], y["value"], xerr=ends[0], yerr=ends[1], fmt="o", markersize=3, linewidth=0.6, color="#2c6fbb")
        axes.margins(0.1)
        axes.axline((0, 0), slope=1, color="#999999", linewidth=0.8, linestyle="--")
        largest = x["value"].abs().nlargest(8)
        for layer, head in largest.index[largest > 0.1 * largest.max()]:
            axes.annotate(f"{layer}.{head}", (x.loc[(layer, head), "value"], y.loc[(layer, head), "value"]), fontsize=7,
                          xytext=(4, 3), textcoords="offset points")  # fmt: skip
        r = np.corrcoef(x["value"], y["value"])[0, 1]
        axes.set_title(f"{NAMES[name]}\nn = {int(y['n'].iloc[0])}, r = {number(r, 3)}", fontsize=9)
        axes.set_xlabel(f"{NAMES['movie']}: {DENOISING}", fontsize=7)
        axes.set_ylabel(DENOISING, fontsize=8)
    figure.suptitle(title)
    return figure
