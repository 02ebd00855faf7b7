"""The pictures of the sequence-continuation paper, each from its tables."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, MultipleLocator

from recircuit.figures.heat_table import heat_table
from recircuit.figures.style import TASK_COLOURS, TASK_NAMES, number

TASKS = ("numerals", "numwords", "months")


def head_drops(drops: pd.DataFrame, single: pd.DataFrame, title: str) -> Figure:
    """Table 1: drop of each circuit when a head goes, one row per head of any circuit, largest mean drop first."""
    drops = drops[drops["run"] == "main"]
    alone = single[(single["component"] == "head") & (single["variant"] == "published")]
    alone = alone.groupby(["layer", "head"])["drop_pp"].mean()
    wide = drops.pivot_table(index=["layer", "head"], columns="task", values="drop_pp").reindex(columns=list(TASKS))
    wide = wide.loc[wide.fillna(0).mean(axis=1).sort_values(kind="stable").index]
    wide["alone"] = alone.reindex(wide.index).to_numpy()
    values = wide.to_numpy()
    texts = [["–" if np.isnan(v) else number(v, 2) for v in row] for row in values]
    worst = max(20.0, float(np.nanmax(np.abs(values))))
    return heat_table(
        values,
        texts,
        [f"{layer}.{head}" for layer, head in wide.index],
        [*(TASK_NAMES[task] for task in TASKS), "mean, alone from\nthe full model"],
        title=title,
        cmap="RdBu",
        norm=TwoSlopeNorm(0, -worst, worst),
        row_label="head (layer.head)",
        column_label="change of the circuit's score when the head is removed (percentage points)",
        cell=(1.6, 0.36),
    )


def cross_task(scores: pd.DataFrame, threshold: float, title: str) -> Figure:
    """Table 4: circuits (rows) on the tasks (columns); then IOI heads where there are any, and random circuits' means."""
    at = scores[(scores["threshold"] == threshold) | scores["threshold"].isna()]
    named = at[at["circuit_kind"].isin(["found", "ioi", "empty"])].set_index(["circuit", "data_task"])
    order = [*TASKS, *sorted(c for c in named.index.unique(0) if c.endswith("_protected"))]
    order += [c for c in ("ioi", "empty") if c in named.index.unique(0)]
    values, texts, rows = [], [], []
    for circuit in order:
        found = [named.loc[(circuit, task)] for task in TASKS]
        values.append([row["score_pct"] for row in found])
        texts.append(
            [f"{number(row['score_pct'], 2)}\n[{number(row['ci_lo'], 1)}, {number(row['ci_hi'], 1)}]" for row in found]
        )
        rows.append(f"{_circuit_name(circuit)}\n({found[0]['n_heads']} heads, {found[0]['n_mlps']} MLPs)")
    named_rows = len(rows)
    for kind, label in (("random_size", "random, same size"), ("random_layer", "random, same heads\nper layer and MLPs")):
        drawn = at[at["circuit_kind"] == kind].groupby("data_task")["score_pct"]
        mean, low, high = (getattr(drawn, name)().reindex(list(TASKS)) for name in ("mean", "min", "max"))
        values.append(mean.tolist())
        texts.append([f"{number(mean[t], 1)}\n{number(low[t], 0)} to {number(high[t], 0)}" for t in TASKS])
        rows.append(label)
    return heat_table(
        np.array(values),
        texts,
        rows,
        [TASK_NAMES[task] for task in TASKS],
        title=title,
        cmap="RdBu",
        norm=TwoSlopeNorm(0, -120, 120),
        row_label="circuit",
        column_label="score on the task (percent of the full model)",
        cell=(1.5, 0.52),
        rules=[named_rows - 1],
    )


def _circuit_name(circuit: str) -> str:
    if circuit.endswith("_protected"):
        return f"{TASK_NAMES[circuit.removesuffix('_protected')]}, last MLP protected"
    return {"ioi": "IOI heads, all MLPs", "empty": "nothing left"}.get(circuit) or TASK_NAMES[circuit]


def ablation_histogram(single: pd.DataFrame, task: str, title: str) -> Figure:
    """Appendix: histogram of the drops of all heads, ten equal bins, the count above each bar."""
    chosen = (single["task"] == task) & (single["variant"] == "published") & (single["component"] == "head")
    figure, axes = plt.subplots(figsize=(6.4, 4.0))
    counts, _, bars = axes.hist(single.loc[chosen, "drop_pp"], bins=10, color=TASK_COLOURS[task], edgecolor="white")
    axes.bar_label(bars, [f"{int(count)}" for count in counts], padding=2)
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(MultipleLocator(10 if high - low < 130 else 20))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(y=0.12)
    axes.set(xlabel="change of the score when one head is ablated (percentage points)", ylabel="number of heads", title=title)
    return figure


def overlap_matrix(table: pd.DataFrame, title: str) -> Figure:
    """Heads that each pair of circuits shares, sizes on the diagonal; in brackets what random sets would share."""
    pairs = table[(table["component"] == "head") & (table["a"] != table["b"])]
    tasks = list(dict.fromkeys([*TASKS, *sorted({*pairs["a"], *pairs["b"]}, reverse=True)]))
    values = np.full((len(tasks), len(tasks)), np.nan)
    texts = [[""] * len(tasks) for _ in tasks]
    for row in pairs.itertuples():
        i, j = sorted((tasks.index(row.a), tasks.index(row.b)), reverse=True)
        values[i, j] = row.n_shared / row.expected
        texts[i][j] = f"{row.n_shared}\n({row.expected:.1f})"
        for name, size in ((row.a, row.n_a), (row.b, row.n_b)):
            texts[tasks.index(name)][tasks.index(name)] = f"{size} heads"
    names = [TASK_NAMES[task].replace("Spanish ", "Spanish\n") for task in tasks]
    groups = table[(table["component"] == "head") & (table["a"] == table["b"])].set_index("a")["n_shared"]
    note = f"all three English tasks share {groups['all']} heads, all five tasks {groups['all5']}"
    figure = heat_table(
        values, texts, names, names, title=title, cmap="Purples", norm=Normalize(0, 1.4 * np.nanmax(values)),
        row_label="", column_label=f"heads shared (expected by chance); {note}", cell=(1.3, 0.62),
    )  # fmt: skip
    return figure


def pruning_path(trace: pd.DataFrame, threshold: float, title: str) -> Figure:
    """Score against the number of components left, one line per task, a mark for each removal; hollow if fragile."""
    figure, axes = plt.subplots(figsize=(7.2, 4.4))
    chosen = trace[(trace["run"] == "main") & (trace["threshold"] == threshold)]
    first_pass = (chosen["iteration"] == 1) & (chosen["direction"] == "backward")
    total = chosen.loc[first_pass, "node"].nunique()
    for task in TASKS:
        removed = chosen[(chosen["task"] == task) & chosen["removed"]].sort_values("order")
        left = total - np.arange(len(removed) + 1)
        scores = np.concatenate([[100.0], removed["score_pct"]])
        label = f"{TASK_NAMES[task]}: {left[-1]} of {total} left"
        axes.plot(left, scores, color=TASK_COLOURS[task], linewidth=1.2, label=label)
        fragile = np.concatenate([[False], removed["fragile"].to_numpy(bool)])
        axes.scatter(left[~fragile], scores[~fragile], s=16, color=TASK_COLOURS[task], zorder=3)
        axes.scatter(left[fragile], scores[fragile], s=28, facecolor="white", edgecolor=TASK_COLOURS[task], zorder=4)
    axes.axhline(100 - threshold, color="0.4", linestyle="--", linewidth=1)
    axes.invert_xaxis()
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="heads and MLPs left", ylabel="score (percent of the full model)", title=title)
    axes.legend(loc="best")
    return figure


def size_performance(scores: pd.DataFrame, threshold: float, title: str) -> Figure:
    """Found circuits at several thresholds, and random circuits of the size found at the paper's, one panel per task."""
    figure, panels = plt.subplots(1, 3, figsize=(10.5, 3.8), sharey=True)
    size = scores["n_heads"] + scores["n_mlps"]
    for axes, task in zip(panels, TASKS, strict=True):
        own = (scores["circuit"] == task) & (scores["data_task"] == task) & (scores["run"] == "main")
        found = scores[own & (scores["circuit_kind"] == "found")].assign(size=size).sort_values("threshold")
        axes.plot(found["size"], found["score_pct"], "o-", color=TASK_COLOURS[task], label="found by pruning")
        for row in found.drop_duplicates("size").itertuples():
            axes.annotate(f"T={row.threshold:g}", (row.size, row.score_pct), xytext=(0, 7), textcoords="offset points",
                          fontsize=8, ha="center")  # fmt: skip
        for kind, shift, marker, label in (
            ("random_size", -0.25, "x", "random, same size"),
            ("random_layer", 0.25, "+", "random, same heads per layer"),
        ):
            drawn = scores[own & (scores["circuit_kind"] == kind)]
            axes.scatter(size[drawn.index] + shift, drawn["score_pct"], marker=marker, s=18, color="0.45", alpha=0.6,
                         linewidth=0.8, label=label)  # fmt: skip
        axes.axhline(0, color="0.8", linewidth=0.8, zorder=0)
        axes.axhline(100 - threshold, color="0.4", linestyle="--", linewidth=1)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.margins(x=0.12)
        axes.set(title=TASK_NAMES[task], xlabel="heads and MLPs in the circuit")
    panels[0].set_ylabel("score (percent of the full model)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9)
    figure.suptitle(title, fontsize=11)
    return figure
