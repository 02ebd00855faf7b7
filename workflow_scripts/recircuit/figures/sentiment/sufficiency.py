"""Is the circuit enough, and is the rest not: bars beside random circuits, and all numbers as a table (spec 3.5, item 7; 8)."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from recircuit.figures.heat_table import heat_table
from recircuit.figures.sentiment.look import SIGNED
from recircuit.figures.style import number, plt

BASES = {"resample": "clean heads in the corrupted run", "mean": "clean run, other heads at their mean"}
METRICS = {"denoising": "logit difference restored (%)", "flips": "prompts with the clean sign (%)"}
# Restriction and direction, and what the axis says of it.
LIMITS = {
    ("all", "none"): "all they\nwrite",
    ("pos", "none"): "at their\npositions",
    ("dir", "kmeans+das"): "K-means+DAS\nof layer 1",
    ("dir", "kmeans"): "K-means\nper layer",
    ("dir", "das"): "DAS\nper layer",
    ("dir", "random"): "random\ndirection",
}
COLOURS = {"circuit": "#2c6fbb", "complement": "#c9c9c9", "all": "#8fbf8f"}
NULLS = {"random": ("#b2182b", "o", "random heads"), "random_layers": ("#e08214", "^", "random heads of the same layers")}
NAMES = {"circuit": "the circuit", "complement": "all other heads", "all": "all heads", "none": "no head"}
DATASETS = {"movie": "ToyMovieReview", "circuit": "the notebook's 25 pairs"}


def bars(table: pd.DataFrame, title: str) -> Figure:
    """Draw the data set ``movie``: a column per base, a row per metric; points are random circuits of the same size."""
    table = table[table["dataset"] == "movie"]
    figure, grid = plt.subplots(len(METRICS), len(BASES), figsize=(14.4, 7.4), squeeze=False, sharex=True, sharey="row")
    for row, (metric, label) in zip(grid, METRICS.items(), strict=True):
        for axes, (base, name) in zip(row, BASES.items(), strict=True):
            _panel(axes, table[(table["metric"] == metric) & (table["base"] == base)], metric)
            axes.tick_params(labelleft=True)
            if metric == "denoising":
                axes.set_title(name, fontsize=10)
        row[0].set_ylabel(label)
    sizes = table.query("node_set == 'circuit' and restriction == 'pos'").iloc[0]
    cells = f"{int(sizes['n_heads'])} heads, {int(sizes['n_cells'])} (head, position) cells, n = {int(sizes['n'])} prompts"
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=9)
    figure.suptitle(f"{title}\n{cells}; whiskers 95 %")
    return figure


def _panel(axes: Axes, rows: pd.DataFrame, metric: str) -> None:
    chosen = rows[~rows["node_set"].isin(NULLS)].set_index(["node_set", "restriction", "direction"])
    width = 0.21  # of four columns: random circuits, the circuit, the rest, all
    for i, (node_set, colour) in enumerate(COLOURS.items()):
        keys = [(node_set, *limit) for limit in LIMITS]
        at = [(x, chosen.loc[key]) for x, key in enumerate(keys) if key in chosen.index]
        xs, values = (np.array(part, float) for part in ([x for x, _ in at], [row["value"] for _, row in at]))
        ends = np.array([[row["value"] - row["ci_lo"], row["ci_hi"] - row["value"]] for _, row in at]).T.clip(min=0)
        style = {"color": colour, "edgecolor": "black", "linewidth": 0.4, "error_kw": {"linewidth": 0.8}}
        axes.bar(xs + (i - 0.5) * width, values, width, yerr=ends, capsize=2, label=NAMES[node_set], **style)
    for kind, (colour, marker, label) in NULLS.items():
        for x, (restriction, direction) in enumerate(LIMITS):
            drawn = rows[(rows["node_set"] == kind) & (rows["restriction"] == restriction) & (rows["direction"] == direction)]
            if len(drawn):
                spread = np.linspace(-0.08, 0.08, len(drawn)) - 1.5 * width  # in the order of the draws
                style = {"s": 13, "color": colour, "marker": marker, "alpha": 0.75, "zorder": 3, "linewidths": 0}
                name = f"{label} ({len(drawn)} draws)" if x == 0 else None
                axes.scatter(x + spread, drawn.sort_values("draw")["value"], label=name, **style)
    floor = float(chosen.loc[("none", "all", "none"), "value"])
    axes.axhline(floor, color="black", linewidth=0.8)
    axes.axhline(100, color="black", linewidth=0.6, linestyle=":")
    if metric == "flips" and floor > 0:
        axes.text(1.0, floor, " no head", transform=axes.get_yaxis_transform(), va="center", fontsize=8)
    axes.set_xticks(range(len(LIMITS)), LIMITS.values(), fontsize=8)
    axes.tick_params(labelbottom=True)


# ---- the table ------------------------------------------------------------------------------------------------------

DIRECTIONS = {
    ("kmeans+das", "first"): "along K-means and DAS of layer 1",
    ("kmeans", "matched"): "along K-means, per layer",
    ("das", "matched"): "along DAS, per layer",
    ("random", "first"): "along a random direction",
}
KEY = ("node_set", "restriction", "direction", "alignment")  # of a row of the table
PLACES = {"all": "", "dir": "", "pos": " at its positions", "pos+dir": " at its positions"}


def table_rows() -> list[tuple[str, str, str, str]]:
    """Return (node set, restriction, direction, alignment) of the table's rows, in order."""
    rows = [("none", "all", "none", "none")]
    for node_set in ("all", "circuit", "complement"):
        for restriction in ("all",) if node_set == "all" else ("all", "pos"):
            rows.append((node_set, restriction, "none", "none"))
            rows += [(node_set, "dir" if restriction == "all" else "pos+dir", *key) for key in DIRECTIONS]
    return [
        *rows,
        ("random", "all", "none", "none"),
        ("random", "pos", "none", "none"),
        ("random_layers", "all", "none", "none"),
    ]


def row_name(node_set: str, restriction: str, direction: str, alignment: str) -> str:
    """Return what a row of the table is called."""
    if node_set in NULLS:
        return NULLS[node_set][2] + ("" if restriction == "all" else " at the circuit's positions")
    place = PLACES[restriction] if node_set == "circuit" else ", not these cells" if "pos" in restriction else ""
    return NAMES[node_set] + place + ("" if direction == "none" else f", {DIRECTIONS[direction, alignment]}")


def numbers(table: pd.DataFrame, title: str) -> Figure:
    """Draw every condition: the logit difference restored with its interval; prompts with the clean sign, raw and centred."""
    columns = [(dataset, base) for dataset in DATASETS for base in BASES if (table["dataset"] == dataset).any()]
    keys = table_rows()
    parts = dict(tuple(table.groupby(["dataset", "base", *KEY])))
    cells = [[_cell(parts[dataset, base, *key]) for dataset, base in columns] for key in keys]
    values = np.array([[value for value, _ in row] for row in cells])
    n = table.groupby("dataset")["n"].first()
    heads = [f"{DATASETS[dataset]}, n = {n[dataset]}\n{BASES[base]}" for dataset, base in columns]
    return heat_table(
        values, [[text for _, text in row] for row in cells], [row_name(*key) for key in keys], heads,
        title=title, cmap=SIGNED, norm=TwoSlopeNorm(0, -250, 250), cell=(3.0, 0.34), rules=_rules(keys),
    )  # fmt: skip


def _rules(keys: Sequence[tuple[str, ...]]) -> list[int]:
    return [i for i, (here, after) in enumerate(pairwise(keys)) if here[0] != after[0]]


def _cell(rows: pd.DataFrame) -> tuple[float, str]:
    by_metric: Mapping[str, pd.DataFrame] = dict(tuple(rows.groupby("metric")))
    main = by_metric["denoising"]
    if len(main) > 1:
        low, high = main["value"].min(), main["value"].max()
        return float(main["value"].mean()), f"{number(main['value'].mean(), 1)} % ({number(low, 1)} to {number(high, 1)})"
    row = main.iloc[0]
    flips = "/".join(number(by_metric[name].iloc[0]["value"], 0) for name in ("flips", "flips_centred"))
    text = f"{number(row['value'], 1)} % [{number(row['ci_lo'], 1)}, {number(row['ci_hi'], 1)}]; {flips} %"
    return float(row["value"]), text + ("" if pd.isna(row["p_value"]) else f"; p = {row['p_value']:.2f}")


def sufficiency_item(file: str, table: pd.DataFrame, title: str) -> Figure:
    """Return the bars or the table."""
    return numbers(table, title) if file.endswith("-table") else bars(table, title)
