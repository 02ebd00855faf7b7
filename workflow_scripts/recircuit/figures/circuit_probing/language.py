"""Exp. 4: ablations and read-outs of a language model's circuits, and what it would say next."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from recircuit.figures.circuit_probing.look import DARK2, dark_grid, grouped_bars

PER_ROW = 12  # components in a row of bars, as in the paper
PARTS = {
    "iid": "IID", "gen": "OOD", "male_iid": "male, IID", "male_gen": "male, OOD", "female_iid": "female, IID",
    "female_gen": "female, OOD",
}  # fmt: skip
CONDITIONS = {"circuit": "circuit ablated", "random": "random columns ablated", "vanilla": "full model"}


def names_of(table: pd.DataFrame) -> pd.Series:
    """Return each row's component as the paper writes it: ``attn-0``."""
    return table["component"] + "-" + table["layer"].astype(str)


def strongest(table: pd.DataFrame) -> str:
    """Return the component whose ablated circuit costs most accuracy on the first part."""
    part = next(name for name in PARTS if name in set(table["part"]))
    rows = table[(table["condition"] == "circuit") & (table["part"] == part)].sort_values(["layer", "component"])
    return names_of(rows)[rows["accuracy"].idxmin()]


def task_figure(runs: pd.DataFrame, ablations: pd.DataFrame, title: str) -> Figure:
    """E4-F1, F2, F3: the strongest circuit on every part, the read-outs of all components, and their ablations part by part."""
    order = names_of(runs.sort_values(["layer", "component"])).tolist()
    rows_of = [order[i : i + PER_ROW] for i in range(0, len(order), PER_ROW)]
    parts = [name for name in PARTS if name in set(ablations["part"])]
    lines = [(part, chunk) for part in parts for chunk in rows_of]
    with dark_grid():
        figure = plt.figure(figsize=(11, 3.6 + 2.1 * len(lines)))
        grid = figure.add_gridspec(1 + len(lines), 2, height_ratios=[1.5] + [1] * len(lines), width_ratios=[1, 1.15])
        _zoom(figure.add_subplot(grid[0, 0]), ablations, parts, strongest(ablations))
        _readouts(figure.add_subplot(grid[0, 1]), runs, order)
        for i, (part, chunk) in enumerate(lines):
            _components(figure.add_subplot(grid[1 + i, :]), ablations[ablations["part"] == part], chunk, part)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=9)
        figure.suptitle(title, fontsize=11)
    return figure


def _zoom(axes: Axes, table: pd.DataFrame, parts: list[str], component: str) -> None:
    bars, errors = {}, {}
    for condition, label in CONDITIONS.items():
        rows = table[table["condition"] == condition]
        rows = rows if condition == "vanilla" else rows[names_of(rows) == component]
        by = rows.groupby("part")["accuracy"]
        bars[label], errors[label] = by.mean()[parts].to_numpy(), by.std(ddof=0)[parts].to_numpy()
    grouped_bars(axes, [PARTS[part].replace(", ", "\n") for part in parts], bars, errors)
    lowest = min(values.min() for values in bars.values())
    axes.set(ylim=(min(0.5, lowest - 0.05), 1.02), ylabel="accuracy")
    axes.set_title(f"{component}: the circuit whose ablation costs most", fontsize=10)


def _readouts(axes: Axes, runs: pd.DataFrame, order: list[str]) -> None:
    rows = runs.assign(name=names_of(runs)).set_index("name").loc[order]
    places = np.arange(len(order))
    axes.bar(places, rows["knn_test"], 0.8, color=DARK2[0])
    axes.plot(places, rows["full_knn_test"], "_", color="black", markersize=9, label="full block")
    axes.axhline(float(rows["majority"].iloc[0]), color="0.4", linestyle=":", linewidth=1.2)
    axes.set_xticks(places, order, rotation=60 if len(order) > 8 else 0, fontsize=8 if len(order) < 30 else 5)
    axes.set(ylim=(0, 1.02), ylabel="nearest neighbour")
    axes.grid(visible=False, axis="x")
    axes.set_title("read-out of each circuit (line: full block; dotted: one class)", fontsize=10)


def _components(axes: Axes, table: pd.DataFrame, chunk: list[str], part: str) -> None:
    rows = table.assign(name=names_of(table))
    bars, errors = {}, {}
    for condition in ("circuit", "random"):
        by = rows[rows["condition"] == condition].groupby("name")["accuracy"]
        bars[CONDITIONS[condition]], errors[CONDITIONS[condition]] = (
            by.mean()[chunk].to_numpy(),
            by.std(ddof=0)[chunk].to_numpy(),
        )
    grouped_bars(axes, chunk, bars, errors)
    full = rows[rows["condition"] == "vanilla"]["accuracy"].mean()
    axes.axhline(full, color=DARK2[2], linestyle="--", linewidth=1.4)
    lowest = min(values.min() for values in bars.values())
    axes.set(ylim=(min(0.5, lowest - 0.05), 1.02), ylabel=f"accuracy\n{PARTS[part]}")


def next_tokens(table: pd.DataFrame, title: str, sentences: int = 12, words: int = 6) -> Figure:
    """E4-Q1: the likeliest next words of some sentences, by the full model and without the circuit."""
    rows = table[(table["row"] < sentences) & (table["rank"] < words)].sort_values(["row", "condition", "rank"])
    lines = [
        (text, *(", ".join(_shown(t) for t in part.loc[part["condition"] == c, "token"]) for c in ("vanilla", "circuit")))
        for (_, text), part in rows.groupby(["row", "text"], sort=True)
    ]
    figure, axes = plt.subplots(figsize=(12.5, 0.36 * len(lines) + 1.3))
    axes.set_axis_off()
    drawn = axes.table(
        cellText=lines, colLabels=("sentence so far", "full model", "circuit ablated"), cellLoc="left", colLoc="left",
        colWidths=(0.38, 0.31, 0.31), bbox=(0, 0, 1, 1),
    )  # fmt: skip
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(8)
    for (row, _), cell in drawn.get_celld().items():
        cell.set(edgecolor="0.85", facecolor="#f0f0f5" if row == 0 else "white")
    first = rows.iloc[0]
    figure.suptitle(f"{title}\n{first['component']}-{first['layer']}, {first['task']}", fontsize=11)
    return figure


def _shown(token: str) -> str:
    return token.replace("Ġ", "").replace("$", "\\$") or "␣"
