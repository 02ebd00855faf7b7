"""What becomes of the circuit when the direction is set to its mean behind the first block (spec 3.5, item 8)."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from recircuit.figures.sentiment.circuit_maps import head_matrix, position_matrix, position_names, signed_panel
from recircuit.figures.sentiment.look import METHOD_COLOURS, METHODS
from recircuit.figures.style import number, plt

HEADS = {"z": "output (z)", "q": "query", "k": "key", "v": "value", "pattern": "pattern"}
SITES = {"resid_pre": "stream entering the layer", "attn_out": "attention's output", "mlp_out": "MLP's output"}
ENOUGH = 0.1  # of the clean logit difference: below it a share of the ablation's effect says nothing
CLASSES = ("negative", "positive", "all")


def effects(axes: Axes, table: pd.DataFrame) -> None:
    """Draw the change of the logit difference by class: the directions', with intervals, and random ones' as dots."""
    rows = table[table["kind"] == "run"]
    methods = [method for method in METHODS if ((rows["direction"] == method) & (rows["draw"] < 0)).any()]
    for x, subset in enumerate(CLASSES):
        here = rows[rows["subset"] == subset]
        for i, method in enumerate(methods):
            row = here[(here["direction"] == method) & (here["draw"] < 0)].iloc[0]
            value, low, high = (100 * row[name] for name in ("value", "ci_lo", "ci_hi"))
            ends = [[max(0.0, value - low)], [max(0.0, high - value)]]
            label = METHODS[method] if x == 0 else None
            axes.bar(x + 0.24 * i, value, 0.22, yerr=ends, capsize=2, color=METHOD_COLOURS[method], label=label)
        drawn = here[here["direction"] == "random"].sort_values("draw")["value"]
        spread = x + 0.24 * len(methods) + np.linspace(-0.08, 0.08, len(drawn))
        label = f"random ({len(drawn)} draws)" if x == 0 else None
        axes.scatter(spread, 100 * drawn, s=10, color=METHOD_COLOURS["random"], linewidths=0, label=label)
    axes.axhline(0, color="black", linewidth=0.8)
    n = rows.groupby("subset")["n"].first()
    at = np.arange(len(CLASSES)) + 0.12 * len(methods)
    axes.set_xticks(at, [f"{subset}\n(n = {n[subset]})" for subset in CLASSES], fontsize=8)
    axes.set_ylabel("change of the logit difference (%)", fontsize=8)
    axes.set_title("the direction set to its mean", fontsize=10)
    axes.legend(fontsize=7)


def lines(axes: Axes, rows: pd.DataFrame) -> None:
    """Draw direct logit attribution, clean less ablated: the stream entering each layer, and each attention and MLP."""
    part = {name: rows[rows["component"] == name].sort_values("layer") for name in ("lens", "attn_out", "mlp_out")}
    axes.plot(part["lens"]["layer"].astype(int), part["lens"]["value"], color="black", marker="o", markersize=3, label="stream")
    for shift, (name, colour, label) in enumerate((("attn_out", "#2c6fbb", "attention"), ("mlp_out", "#e08214", "MLP"))):
        at = part[name]["layer"].astype(float) + 0.3 + 0.4 * shift
        axes.bar(at, part[name]["value"], 0.36, color=colour, label=label)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(part["lens"])))
    axes.set_xlabel("layer")
    axes.set_ylabel("logits, clean less ablated", fontsize=8)
    axes.set_title("direct attribution", fontsize=10)
    axes.legend(fontsize=7)


def maps(table: pd.DataFrame, places: pd.DataFrame, direction: str, title: str) -> Figure:
    """Draw one direction: the run, attribution, and noising of heads and of positions, on negative prompts."""
    table = table[table["dataset"] == "movie"]
    rows = table[(table["direction"] == direction) & (table["draw"] < 0)]
    dla, noising = (rows[rows["kind"] == kind] for kind in ("dla", "noising"))
    n, m = int(noising["layer"].max()) + 1, int(noising["head"].max()) + 1
    tall = 3.4, max(0.24 * n + 1.5, 2.6), max(0.24 * n + 2.2, 3.3)
    figure = plt.figure(figsize=(min(24.0, max(15.0, 5 * (0.26 * m + 1.3))), sum(tall) + 0.8))
    parts = figure.subfigures(3, 1, height_ratios=tall)
    left, middle, right = parts[0].subplots(1, 3)
    effects(left, table)
    lines(middle, dla)
    heads = head_matrix(dla[dla["component"] == "head"], "value")
    signed_panel(parts[0], right, heads, "direct attribution of heads", "logits, clean less ablated", ("layer", "head"))
    value, label, scale = measure(noising)
    names = position_names(places)
    for part, sites, matrix, across in (
        (parts[1], HEADS, head_matrix, "head"),
        (parts[2], SITES, position_matrix, "position"),
    ):
        shown = {site: matrix(noising[noising["component"] == site], value).astype(float) * scale for site in sites}
        limit = max(float(values.abs().max().max()) for values in shown.values()) or 1.0
        for axes, (site, name) in zip(part.subplots(1, len(sites)), sites.items(), strict=True):
            values = shown[site].rename(columns=names) if across == "position" else shown[site]
            signed_panel(part, axes, values, name, label, ("layer", across), limit=limit, turned=across == "position")
    run = noising.iloc[0]
    ends = f"{number(run['ld_clean'], 2)} clean, {number(run['ld_ablated'], 2)} ablated"
    figure.suptitle(f"{title}\nnegative prompts, direction by {METHODS[direction]}; logit difference {ends}")
    return figure


def measure(noising: pd.DataFrame) -> tuple[str, str, float]:
    """Return (column, label, factor) of noising: percent of the ablation's effect, or logits where it has next to none."""
    run = noising.iloc[0]
    if abs(run["ld_ablated"] - run["ld_clean"]) >= ENOUGH * abs(run["ld_clean"]):
        return "value", "% (−100: as ablated)", 100.0
    return "change", "change (logits)", 1.0


def ablated_item(file: str, tables: Mapping[str, pd.DataFrame], title: str) -> Figure:
    """Return the picture of the direction that a file's name ends in."""
    return maps(tables["se_ablated_circuit"], tables["se_positions"], file.rpartition("-")[2], title)
