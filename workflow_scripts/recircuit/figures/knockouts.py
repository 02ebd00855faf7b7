"""The Llama part of the sequence-continuation paper: what heads are worth, and what the model writes without them."""

import re
import textwrap
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import Normalize, TwoSlopeNorm
from matplotlib.figure import Figure

from recircuit.core.errors import UserError
from recircuit.figures.heat_table import heat_table
from recircuit.figures.lens_tables import layer_by_head
from recircuit.figures.style import TASK_NAMES, number

ENDS = {"fixed": "last token", "published": "as published"}
SETS = {
    "none": "nothing",
    "numerals": "numerals circuit",
    "numwords": "number-words circuit",
    "months": "months circuit",
    "shared": "shared heads",
    "big3": "three heads",
    "big5": "five heads",
}
LEGEND = "stars: against as many random heads, exact paired test, * p < 0.05, ** p < 0.01, *** p < 0.001"
STARS = ((0.001, "***"), (0.01, "**"), (0.05, "*"))


# --- heads (E11) --------------------------------------------------------------------------------------------------------------


def llama_head_drops(drops: pd.DataFrame, title: str, shown: int = 15) -> Figure:
    """Table 2: drop of each circuit when a head goes, mean over draws; the corrected reading, then the published one.

    Rows are the heads with the largest mean drop over tasks and draws (0 where a head is not in the circuit).
    """
    rows = drops[(drops["base"] == "circuit") & (drops["component"] == "head")]
    columns = [(variant, task) for variant in ENDS for task in _tasks(drops, variant)]
    # Counted over all rows: a circuit may be empty, and then has no rows of its own.
    draws = {column: drops.loc[_at(drops, *column), "draw"].nunique() for column in columns}
    lead = columns[0][0]
    runs = sum(n for (variant, _), n in draws.items() if variant == lead)
    heads = rows[rows["variant"] == lead].groupby(["layer", "head"])["drop_pp"]
    chosen = (heads.sum() / runs).sort_values(kind="stable").index[:shown]
    always = set(heads.size().index[heads.size() == runs])
    values, texts = np.full((len(chosen), len(columns)), np.nan), [["–"] * len(columns) for _ in chosen]
    for j, column in enumerate(columns):
        groups = rows[_at(rows, *column)].groupby(["layer", "head"])["drop_pp"]
        for i, head in enumerate(chosen):
            if head in groups.groups:
                found = groups.get_group(head)
                values[i, j], texts[i][j] = found.mean(), _spread(found, draws[column])
    worst = max(20.0, float(np.nanmax(np.abs(values))))
    figure = heat_table(
        values,
        texts,
        [f"{layer}.{head}{' ●' if (layer, head) in always else ''}" for layer, head in chosen],
        [f"{textwrap.fill(TASK_NAMES[task], 16)}\n({ENDS[variant]})" for variant, task in columns],
        title=title,
        cmap="RdBu",
        norm=TwoSlopeNorm(0, -worst, worst),
        row_label="head (layer.head); ● in every task's circuit in every draw",
        column_label="change of the circuit's score when the head is removed (percentage points)\n" + _draws(columns, draws),
        cell=(1.5, 0.5),
    )
    for j in range(1, len(columns)):
        if columns[j][0] != columns[j - 1][0]:
            figure.axes[0].axvline(j - 0.5, color="black", linewidth=1)
    return figure


def _tasks(rows: pd.DataFrame, variant: str) -> list[str]:
    there = set(rows.loc[rows["variant"] == variant, "task"])
    return [task for task in TASK_NAMES if task in there]


def _at(rows: pd.DataFrame, variant: str, task: str) -> pd.Series:
    return (rows["variant"] == variant) & (rows["task"] == task)


def _spread(found: pd.Series, draws: int) -> str:
    text = number(found.mean(), 1)
    if draws == 1:
        return text
    if len(found) == 1:
        return f"{text} (1 of {draws})"
    part = "" if len(found) == draws else f" ({len(found)} of {draws})"
    return f"{text}{part}\n{number(found.min(), 1)} to {number(found.max(), 1)}"


def _draws(columns: Sequence[tuple[str, str]], draws: dict) -> str:
    counts = {variant: max([draws[column] for column in columns if column[0] == variant], default=0) for variant in ENDS}
    named = {"fixed": "read at the last token", "published": "as published, read at the last but one"}
    parts = [
        f"{named[variant]}: {f'mean and range over {n} draws' if n > 1 else 'one draw'}" for variant, n in counts.items() if n
    ]
    return "; ".join(parts)


def llama_heads(drops: pd.DataFrame, title: str) -> Figure:
    """Maps [layer head] of the full model's change when one head is ablated, variants by tasks, mean over draws."""
    rows = drops[(drops["base"] == "full") & (drops["component"] == "head")]
    variants = [variant for variant in ENDS if variant in set(rows["variant"])]
    tasks = [task for task in TASK_NAMES if task in set(rows["task"])]
    tall = 2.9 * (rows["layer"].max() + 1) / (rows["head"].max() + 1)
    figure, panels = plt.subplots(
        len(variants),
        len(tasks),
        figsize=(3.8 * len(tasks) + 0.4, (tall + 0.8) * len(variants) + 0.4),
        squeeze=False,
        layout="compressed",
    )
    for variant, line in zip(variants, panels, strict=True):
        for task, axes in zip(tasks, line, strict=True):
            found = rows[_at(rows, variant, task)].groupby(["layer", "head"])["drop_pp"].mean()
            if found.empty:
                axes.set_visible(False)
                continue
            layer_by_head(axes, found.unstack())
            worst = max(float(found.abs().max()), 1e-6)
            image = axes.imshow(found.unstack(), cmap="coolwarm", norm=TwoSlopeNorm(0, -worst, worst), aspect="equal")
            figure.colorbar(image, ax=axes, shrink=0.9)
            named = ", ".join(f"{layer}.{head} {number(drop, 1)}" for (layer, head), drop in found.nsmallest(2).items())
            axes.set_title(f"{TASK_NAMES[task]}\n{named}", fontsize=9.5)
        line[0].set_ylabel(f"{ENDS[variant]}\nlayer")
    figure.suptitle(f"{title}\nchange of the score in percentage points, blue: worse without the head", fontsize=11)
    return figure


# --- knock-outs (E12) ---------------------------------------------------------------------------------------------------------


def knockout_table(scores: pd.DataFrame, family: str, title: str) -> Figure:
    """Table of accuracies with Wilson intervals, ablated sets by subsets; zero ablation first, then mean ablation.

    ``family`` is what the names of its experiments begin with.
    """
    rows = scores[scores["experiment"].str.startswith(family)]
    if rows.empty:
        raise UserError(f"no scores of knock-outs for '{family}'; there are {sorted(scores['experiment'].unique())}")
    subsets = sorted(set(zip(rows["experiment"], rows["subset"], strict=True)), key=_subset_order)
    lines = [(kind, name) for kind in ("zero", "mean") for name in _sets(rows, kind) if (kind, name) != ("mean", "none")]
    values, texts = np.full((len(lines), len(subsets)), np.nan), [[""] * len(subsets) for _ in lines]
    for row in rows.itertuples():
        if (row.ablation, row.ablated) in lines:
            i, j = lines.index((row.ablation, row.ablated)), subsets.index((row.experiment, row.subset))
            values[i, j], texts[i][j] = row.accuracy_pct, _accuracy(row)
    figure = heat_table(
        values,
        texts,
        [_line_name(rows, kind, name) for kind, name in lines],
        [_subset_name(*subset, rows) for subset in subsets],
        title=title,
        cmap="Blues",
        norm=Normalize(0, 115),
        row_label="heads knocked out",
        column_label="prompts answered correctly (percent, 95 % Wilson interval)",
        cell=(1.55, 0.52),
        rules=[i for i in range(len(lines) - 1) if lines[i][0] != lines[i + 1][0]],
    )
    figure.axes[0].text(1, -0.01, LEGEND, transform=figure.axes[0].transAxes, ha="right", va="top", fontsize=8.5)
    return figure


def _sets(rows: pd.DataFrame, kind: str) -> list[str]:
    there = set(rows.loc[rows["ablation"] == kind, "ablated"])
    order = {name: i for i, name in enumerate(SETS)}
    return sorted(there, key=lambda name: (name.startswith("random"), order.get(name, len(order)), name))


def _accuracy(row) -> str:
    stars = ""
    if not pd.isna(row.p_value):
        stars = next((mark for limit, mark in STARS if row.p_value < limit), "")
    return f"{number(row.accuracy_pct, 1)}{stars}\n[{number(row.ci_lo, 0)}, {number(row.ci_hi, 0)}]"


def _line_name(rows: pd.DataFrame, kind: str, name: str) -> str:
    found = rows[(rows["ablation"] == kind) & (rows["ablated"] == name)]
    low, high = found["n_heads"].min(), found["n_heads"].max()
    heads = f"{low} heads" if low == high else f"{low} to {high} heads"
    draws = f", {found['n_draws'].max()} draws" if found["n_draws"].max() > 1 else ""
    mean = ", mean-ablated" if kind == "mean" else ""
    return SETS["none"] if name == "none" else f"{SETS.get(name, name.replace('_', ' '))}{mean}\n({heads}{draws})"


def _subset_order(column: tuple[str, str]) -> tuple:
    """Sort intervals by size; sums before differences, and short numbers before long ones."""
    experiment, subset = column
    step = re.fullmatch(r"\+?(\d+)", subset)
    return experiment, int(step[1]) if step else 0, "subtraction" in subset, "double" in subset, subset


def _subset_name(experiment: str, subset: str, rows: pd.DataFrame) -> str:
    name = subset if rows["experiment"].nunique() == 1 else f"{experiment} {subset}"
    return textwrap.fill(name.replace("_", " "), 16)
