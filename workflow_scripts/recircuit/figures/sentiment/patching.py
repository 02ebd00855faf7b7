"""Figure 3 and what stands beside it: patching along directions, by method, by layer, and against chance (spec 3.4, 8)."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from recircuit.figures.heat_table import heat_table
from recircuit.figures.sentiment.look import METHOD_COLOURS, METHODS, SETS, SIGNED
from recircuit.figures.style import number, plt

LINES = ("das", "kmeans", "logistic_regression")  # the paper's
SINGLE = ("das", "kmeans", "logistic_regression", "mean_diff", "pca")  # directions of one dimension
TRANSFERRED = ("das", "kmeans")
GENERAL_SETS = ("adverb", "book", "product", "res", "movie")
GENERAL_METHODS = ("mean_diff", "logistic_regression", "das")
PROJECTIONS = {"none": "the direction", "para": "part along the tested set’s own", "ortho": "the rest"}
METRICS = {"logit_diff": "logit difference", "logit_flip": "flips"}
NULLS = {"random": "random directions", "shuffled": "fits to shuffled labels"}
PERCENT = "logit difference given back (%)"
READOUT = "#ececec"


class Prompts(NamedTuple):
    """Some prompts that patching was tried on, what a picture calls them, and the rule that picks a layer on others."""

    eval_set: str
    scaffold: str
    variant: str
    name: str
    rule: str

    def rows(self, table: pd.DataFrame, split: str = "test") -> pd.DataFrame:
        """Return the rows of a table."""
        kept = (table["eval_set"] == self.eval_set) & (table["scaffold"] == self.scaffold) & (table["split"] == split)
        return table[kept & (table["variant"] == self.variant)] if "variant" in table else table[kept]


TOY = Prompts("movie", "toy", "paper", "toy\nreviews", "train")
CONTINUED = Prompts("reviews", "continuation", "paper", "reviews,\ncontinued", "dev")
CLASSIFIED = Prompts("reviews", "classification", "filtered", "reviews,\nclassified", "dev")


def patching_item(file: str, tables: Mapping[str, pd.DataFrame], title: str) -> Figure:
    """Return one of the pictures of patching."""
    patching, best, null = (tables[name] for name in ("se_patching", "se_patching_best", "se_patching_null"))
    if file == "f3a-patching":
        return table(best, title)
    if file in ("f3b-patching-by-layer", "x16-toy-by-layer"):
        return by_layer(patching, null, file, title)
    if file == "x15-null":
        return histogram(patching, best, null, title)
    draw = {"x11-training-sets": training_sets, "x12-transfer": transfer, "x13-dose": doses, "x14-variance-share": variance}
    return draw[file](patching, title)


def plain(patching: pd.DataFrame, metric: str = "logit_diff") -> pd.DataFrame:
    """Return the rows of the published patch: a movie direction, whole, once, at the layer that it was fitted at."""
    rows = scaled(patching, metric)
    return rows[rows["scale"] == 1]


def scaled(patching: pd.DataFrame, metric: str = "logit_diff") -> pd.DataFrame:
    """Return these rows in every dose."""
    kept = (patching["set"] == "movie") & (patching["layer"] == patching["from_layer"]) & (patching["projection"] == "none")
    return patching[kept & (patching["draw"] == -1) & (patching["metric"] == metric)]


# ---- Figure 3a ------------------------------------------------------------------------------------------------------


def table(best: pd.DataFrame, title: str) -> Figure:
    """Figure 3a: each method on toy reviews and reviews, at the best layer and at one that was picked on other prompts."""
    shown = [prompts for prompts in (TOY, CONTINUED, CLASSIFIED) if len(prompts.rows(best))]
    methods = [method for method in METHODS if method in set(best["method"])]
    columns, cells = [], []
    for prompts in shown:
        for metric, name in METRICS.items():
            for rule, what in (("max", "best layer"), (prompts.rule, f"layer from {_SOURCES[prompts.rule]}")):
                rows = prompts.rows(best)
                rows = rows[(rows["rule"] == rule) & (rows["metric"] == metric)].set_index("method")
                count = f"n = {rows['n'].iloc[0]}" if len(rows) else ""
                columns.append(f"{prompts.name}\n{count}\n{name}\n{what}")
                cells.append([rows.loc[method] if method in rows.index else None for method in methods])
    values = np.array([[np.nan if cell is None else cell["value"] for cell in column] for column in cells]).T
    texts = [[_cell(column[i]) for column in cells] for i in range(len(methods))]
    figure = heat_table(
        values, texts, [METHODS[method] for method in methods], columns, title=title, cmap="Blues", norm=Normalize(0, 110),
        cell=(1.42, 0.62),
    )  # fmt: skip
    grey_readouts(
        figure, [[column[i] is not None and bool(column[i]["readout"]) for column in cells] for i in range(len(methods))]
    )
    return figure


_SOURCES = {"train": "training", "dev": "dev"}


def _cell(row: pd.Series | None) -> str:
    if row is None:
        return "–"
    span = "" if pd.isna(row["ci_lo"]) else f"\n[{number(row['ci_lo'], 1)}, {number(row['ci_hi'], 1)}]"
    return f"{number(row['value'], 1)} % (layer {row['layer']}){span}"


def grey_readouts(figure: Figure, readouts: Sequence[Sequence[bool]]) -> None:
    """Grey the cells whose layer is the final stream: what is patched there is read at once."""
    axes = figure.axes[0]
    for text, readout in zip(axes.texts, [one for row in readouts for one in row], strict=True):
        if readout:
            text.set(color="#808080", style="italic")


# ---- by layer -------------------------------------------------------------------------------------------------------


def by_layer(patching: pd.DataFrame, null: pd.DataFrame, file: str, title: str) -> Figure:
    """Figure 3b: reviews continued, three methods by layer; or, ours, toy reviews and classified reviews, more methods."""
    panels = [(CONTINUED, LINES)] if file.startswith("f3b") else [(TOY, SINGLE), (CLASSIFIED, SINGLE)]
    panels = [(prompts, methods) for prompts, methods in panels if len(prompts.rows(patching))]
    figure, grid = plt.subplots(1, len(panels), figsize=(4.6 * len(panels) + 2.6, 4.2), squeeze=False, sharey=True)
    for axes, (prompts, methods) in zip(grid[0], panels, strict=True):
        rows = plain(prompts.rows(patching))
        for method in methods:
            method_line(axes, rows[rows["method"] == method], method)
        null_band(axes, prompts.rows(null))
        layers = sorted(rows["layer"].unique())
        layer_axis(axes, layers)
        axes.set_title(f"{prompts.name.replace(chr(10), ' ')}: {rows['n'].iloc[0]} prompts", fontsize=10)
    grid[0, 0].set_ylabel(PERCENT)
    handles = {label: line for axes in grid[0] for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    grid[0, -1].legend(handles.values(), handles.keys(), loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.suptitle(title)
    return figure


def method_line(axes: Axes, rows: pd.DataFrame, method: str, **choices) -> None:
    """Draw a method's percentages by layer with their intervals."""
    rows, colour = rows.sort_values("layer"), METHOD_COLOURS[method]
    axes.plot(rows["layer"], rows["value"], marker="o", markersize=4, color=colour, label=METHODS[method], **choices)
    axes.fill_between(
        rows["layer"], rows["ci_lo"].astype(float), rows["ci_hi"].astype(float), color=colour, alpha=0.15, linewidth=0
    )


def null_band(axes: Axes, null: pd.DataFrame) -> None:
    """Draw the range of null distributions, the widest first."""
    rows = null[null["metric"] == "logit_diff"].drop_duplicates(["null", "layer"]).sort_values("layer")
    for kind, colour in (("shuffled", "#c9c9c9"), ("random", "#8a8a8a")):
        part = rows[rows["null"] == kind]
        if len(part):
            label = f"range of {part['draws'].iloc[0]} {NULLS[kind]}"
            axes.fill_between(
                part["layer"], part["lowest"], part["highest"], color=colour, alpha=0.55, linewidth=0, label=label
            )


def layer_axis(axes: Axes, layers: Sequence[int]) -> None:
    """Label layers, mark 0 and 100 %, and grey the final stream."""
    every = 1 if len(layers) <= 14 else 4
    axes.axvspan(layers[-1] - 0.5, layers[-1] + 0.5, color=READOUT, zorder=0)
    axes.set_xticks(layers[::every])
    axes.set_xlim(layers[0] - 0.4, layers[-1] + 0.5)
    for level in (0, 100):
        axes.axhline(level, color="#555555", linewidth=0.8, linestyle="--")
    axes.set_xlabel("layer (grey: the final stream)")


# ---- other prompts, other layers, other doses -----------------------------------------------------------------------


def training_sets(patching: pd.DataFrame, title: str) -> Figure:
    """Ours: directions of every toy set on every toy set, and their parts along and across the tested set's own."""
    toys = patching[
        (patching["scaffold"] == "toy") & patching["split"].isin(("test", "all")) & (patching["metric"] == "logit_diff")
    ]
    toys = toys[(toys["layer"] == toys["from_layer"]) & (toys["scale"] == 1) & (toys["draw"] == -1)]
    # Of toy reviews there are directions of two variants; other sets have one.
    toys = toys[(toys["set"] != "movie") | (toys["variant"] == "paper")]
    toys = toys[toys["layer"] < patching["layer"].max()]
    names = [name for name in GENERAL_SETS if name in set(toys["eval_set"])]
    counts = toys.drop_duplicates("eval_set").set_index("eval_set")["n"]
    figure, grid = plt.subplots(3, 3, figsize=(11.4, 10.6), squeeze=False)
    image = None
    for line, projection in zip(grid, PROJECTIONS, strict=True):
        for axes, method in zip(line, GENERAL_METHODS, strict=True):
            rows = toys[(toys["projection"] == projection) & (toys["method"] == method)]
            wide = rows.groupby(["set", "eval_set"])["value"].max().unstack().reindex(index=names, columns=names)
            image = signed_map(axes, wide.to_numpy(float))
            labels = [f"{SETS[name]}, {counts[name]}" for name in names]
            axes.set_xticks(range(len(names)), labels, fontsize=8, rotation=25, ha="right", rotation_mode="anchor")
            axes.set_yticks(range(len(names)), [SETS[name] for name in names], fontsize=8)
            axes.set_title(f"{METHODS[method]}: {PROJECTIONS[projection]}", fontsize=10)
            axes.set_xlabel("tested on (with how many prompts)")
            axes.set_ylabel("fitted on")
    figure.colorbar(image, ax=grid, shrink=0.4, label=f"{PERCENT}, best layer")
    figure.suptitle(title)
    return figure


def signed_map(axes: Axes, values: np.ndarray):
    """Draw percentages as a map from red, -100, to blue, 100, with the numbers where there is room."""
    image = axes.imshow(values, cmap=SIGNED, vmin=-100, vmax=100, aspect="auto", interpolation="nearest")
    if max(values.shape) <= 14:
        size = 9 if max(values.shape) <= 6 else 7
        for (i, j), value in np.ndenumerate(values):
            colour = "white" if abs(value) > 65 else "black"
            axes.text(j, i, "–" if np.isnan(value) else number(value, 0), ha="center", va="center", fontsize=size, color=colour)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return image


def transfer(patching: pd.DataFrame, title: str) -> Figure:
    """Ours: the direction of one layer (row) patched at every layer (column), on toy reviews."""
    rows = TOY.rows(patching)
    rows = rows[(rows["projection"] == "none") & (rows["scale"] == 1) & (rows["draw"] == -1) & (rows["set"] == "movie")]
    rows, layers = rows[rows["metric"] == "logit_diff"], sorted(rows["layer"].unique())
    side = max(4.2, 0.42 * len(layers))
    figure, grid = plt.subplots(1, len(TRANSFERRED), figsize=(2 * side + 1.6, side + 0.4), squeeze=False)
    for axes, method in zip(grid[0], TRANSFERRED, strict=True):
        wide = rows[rows["method"] == method].pivot(index="from_layer", columns="layer", values="value").reindex(columns=layers)
        image = signed_map(axes, wide.to_numpy(float))
        axes.set_xticks(range(len(layers)), layers, fontsize=8)
        axes.set_yticks(range(len(wide)), wide.index, fontsize=8)
        axes.axvline(len(layers) - 1.5, color="#555555", linewidth=1.0)
        axes.set(xlabel="patched at layer (last: the final stream)", ylabel="direction of layer")
        axes.set_title(f"{METHODS[method]}, {rows['n'].iloc[0]} prompts", fontsize=10)
    figure.colorbar(image, ax=grid, shrink=0.8, label=PERCENT)
    figure.suptitle(title)
    return figure


def doses(patching: pd.DataFrame, title: str) -> Figure:
    """Ours: how much of the difference along a direction goes in (1: the published patch), and what comes of it."""
    rows = scaled(TOY.rows(patching))
    layers = sorted(rows.loc[rows["scale"] != 1, "layer"].unique())
    figure, grid = plt.subplots(1, len(layers), figsize=(4.6 * len(layers) + 2.2, 4.2), squeeze=False)
    for axes, layer in zip(grid[0], layers, strict=True):
        here = rows[rows["layer"] == layer]
        for method in here.loc[here["scale"] != 1, "method"].unique():
            part, colour = here[here["method"] == method].sort_values("scale"), METHOD_COLOURS[method]
            axes.plot(part["scale"], part["value"], marker="o", markersize=4, color=colour, label=METHODS[method])
            low, high = part["ci_lo"].astype(float), part["ci_hi"].astype(float)
            axes.fill_between(part["scale"], low, high, color=colour, alpha=0.15, linewidth=0)
            once = float(part.loc[part["scale"] == 1, "value"].iloc[0])
            axes.plot(part["scale"], once * part["scale"], color=colour, linewidth=0.8, linestyle=":")
        axes.axvline(1, color="#555555", linewidth=0.8, linestyle="--")
        axes.axhline(0, color="#555555", linewidth=0.8, linestyle="--")
        axes.set(xlabel="dose (dotted: in proportion)", ylabel=PERCENT)
        axes.set_title(f"layer {layer}, {here['n'].iloc[0]} prompts", fontsize=10)
    grid[0, -1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.suptitle(title)
    return figure


# ---- how much of the difference, and by chance ----------------------------------------------------------------------


def variance(patching: pd.DataFrame, title: str) -> Figure:
    """Ours: the share of the difference between the streams that a direction holds, its effect, and the effect of the rest."""
    rows, methods = TOY.rows(patching), (*SINGLE[:4], "random")
    whole, rest = plain(rows), rows[(rows["projection"] == "complement") & (rows["metric"] == "logit_diff")]
    figure, grid = plt.subplots(1, len(methods), figsize=(2.6 * len(methods) + 2.4, 3.8), squeeze=False, sharey=True)
    for axes, method in zip(grid[0], methods, strict=True):
        part, other = (table[table["method"] == method].sort_values("layer") for table in (whole, rest))
        colour = METHOD_COLOURS[method]
        axes.bar(part["layer"], 100 * part["share"], width=0.7, color="#b8b8b8", label="share of the squared difference")
        axes.plot(part["layer"], part["value"], marker="o", markersize=4, color=colour, label="effect of the direction")
        axes.plot(
            other["layer"],
            other["value"],
            marker="s",
            markersize=4,
            color="black",
            linestyle="--",
            label="effect of all but it",
        )
        layer_axis(axes, sorted(whole["layer"].unique()))
        axes.set_xlabel("layer", fontsize=9)
        axes.set_title(METHODS[method], fontsize=10)
    grid[0, 0].set_ylabel("%")
    lines, labels = grid[0, -1].get_legend_handles_labels()
    for line, label in zip(lines, labels, strict=True):
        if label == "effect of the direction":
            line.set_label(f"{label} (in its colour)")
    grid[0, -1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=9)
    figure.suptitle(f"{title}, {whole['n'].iloc[0]} prompts")
    return figure


def histogram(patching: pd.DataFrame, best: pd.DataFrame, null: pd.DataFrame, title: str) -> Figure:
    """Ours: directions among random ones and among fits to shuffled labels, at the layer that training prompts pick."""
    picked = TOY.rows(best)
    picked = picked[(picked["rule"] == "train") & (picked["metric"] == "logit_diff")].set_index("method")["layer"]
    layer = int(picked.get("das", picked.iloc[0]))
    rows = TOY.rows(patching)
    rows = rows[(rows["layer"] == layer) & (rows["draw"] >= 0) & (rows["metric"] == "logit_diff") & rows["method"].isin(NULLS)]
    figure, grid = plt.subplots(len(NULLS), 1, figsize=(10.4, 6.4), squeeze=False, sharex=True)
    for axes, (kind, name) in zip(grid[:, 0], NULLS.items(), strict=True):
        values = rows.loc[rows["method"] == kind, "value"]
        found = TOY.rows(null)
        found = found[(found["null"] == kind) & (found["layer"] == layer) & (found["metric"] == "logit_diff")].set_index(
            "method"
        )
        ends = [*values, *found["value"]]
        axes.hist(values, bins=np.linspace(min(ends) - 1, max(ends) + 1, 61), color="#9a9a9a", label=f"{len(values)} {name}")
        for method in (method for method in SINGLE if method in found.index):
            label = f"{METHODS[method]} {number(found.loc[method, 'value'], 1)} %, p = {found.loc[method, 'p']:.3f}"
            axes.axvline(found.loc[method, "value"], color=METHOD_COLOURS[method], linewidth=1.6, label=label)
        axes.set_ylabel("directions")
        axes.set_title(name, fontsize=10)
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=9)
    grid[-1, 0].set_xlabel(f"{PERCENT}, patched at layer {layer}")
    figure.suptitle(title)
    return figure
