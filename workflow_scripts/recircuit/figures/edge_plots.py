"""Pictures about edges of the sequence-continuation circuits: whole edge graphs, attribution, and the two edge tests."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from recircuit.figures.sequence_continuation import TASKS
from recircuit.figures.style import TASK_NAMES, number

GRAPHS = {  # name in the table: (label, colour, marker)
    "eap": ("largest by EAP", "#2c6fbb", "o"),
    "eap_ig": ("largest by EAP-IG", "#1b7a4b", "s"),
    "random": ("random edges", "0.55", "x"),
    "kept": ("kept by path patching", "#c0392b", "*"),
}
BASES = {"circuit": "the circuit's edges", "full": "the full model's edges"}
METHODS = {"eap": ("EAP", "#2c6fbb", "o"), "eap_ig": ("EAP-IG", "#d1771f", "s")}
KINDS = {
    ("head", "head"): ("head → head", "#2c6fbb", "o"),
    ("head", "mlp"): ("head → MLP", "#1b7a4b", "s"),
    ("mlp", "mlp"): ("MLP → MLP", "#c0392b", "D"),
    ("mlp", "head"): ("MLP → head", "#c8960c", "^"),
    ("", "resid"): ("→ residual", "#7a4fa3", "v"),
}


def edge_graphs(table: pd.DataFrame, title: str) -> Figure:
    """Score against number of edges: above with the graph's edges clean, below with all edges but the graph's."""
    figure, panels = plt.subplots(2, len(TASKS), figsize=(10.8, 6.6), sharex="col", sharey="row")
    for column, task in enumerate(TASKS):
        chosen = table[table["task"] == task]
        for axes, score in zip(panels[:, column], ("score_pct", "complement_pct"), strict=True):
            _graphs(axes, chosen, score)
        panels[0, column].set_title(TASK_NAMES[task])
        panels[1, column].set_xlabel("edges in the graph")
    panels[0, 0].set_ylabel("the graph alone\n(percent of the full model)")
    panels[1, 0].set_ylabel("all edges but the graph's\n(percent of the full model)")
    handles = {}
    for axes in panels[0]:  # a graph may be there for one task alone
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=9)
    figure.suptitle(title, fontsize=11)
    return figure


def _graphs(axes, chosen: pd.DataFrame, score: str) -> None:
    """Draw one panel: draws as crosses, a graph of one size as a star, graphs of several sizes as a line."""
    for level in (0, 100):
        axes.axhline(level, color="0.85", linewidth=0.8, zorder=0)
    for name, (label, colour, marker) in styles(chosen["graph"], GRAPHS).items():
        found = chosen[chosen["graph"] == name].sort_values("n_edges")
        x, y = found["n_edges"], found[score]
        if found["draw"].notna().any():
            axes.scatter(x, y, marker=marker, s=18, color=colour, linewidth=0.8, alpha=0.7, label=label)
        elif len(found) == 1:
            axes.scatter(x, y, marker=marker, s=150, color=colour, edgecolor="white", zorder=5, label=label)
        else:
            axes.plot(x, y, marker=marker, markersize=4, linewidth=1.1, color=colour, label=label)


def styles(names: pd.Series, known: dict[str, tuple[str, str, str]]) -> dict[str, tuple[str, str, str]]:
    """Return (label, colour, marker) of the names that there are: those known first, others in greys under their names."""
    found = {name: known[name] for name in known if name in set(names)}
    others = sorted(set(names) - set(known))
    return found | {name: (name.replace("_", " "), f"{0.3 + 0.15 * (i % 3):.2f}", "P") for i, name in enumerate(others)}


def attribution(table: pd.DataFrame, title: str) -> Figure:
    """Estimated against exact effect of edges, tasks side by side; the rank correlation of each method in the panel."""
    known = table.dropna(subset=["exact"])
    bases = sorted(known["base"].unique())
    figure, panels = plt.subplots(len(bases), len(TASKS), figsize=(10.8, 3.5 * len(bases) + 0.6), squeeze=False)
    for base, line in zip(bases, panels, strict=True):
        for task, axes in zip(TASKS, line, strict=True):
            chosen = known[(known["task"] == task) & (known["base"] == base)]
            _against_exact(axes, chosen)
            axes.set_title(TASK_NAMES[task])
        line[0].set_ylabel(f"{BASES.get(base, base)}\nestimated effect (logits)")
    figure.suptitle(title, fontsize=11)
    return figure


def _against_exact(axes, chosen: pd.DataFrame) -> None:
    low, high = (getattr(chosen[["score", "exact"]].to_numpy(), name)() for name in ("min", "max"))
    edge = [low, high]
    axes.plot(edge, edge, color="0.75", linewidth=0.9, zorder=0)
    for method, (label, colour, marker) in styles(chosen["method"], METHODS).items():
        found = chosen[chosen["method"] == method]
        rank = rank_correlation(found["score"], found["exact"])
        axes.scatter(found["exact"], found["score"], s=14, marker=marker, color=colour, alpha=0.6, linewidth=0,
                     label=f"{label}, ρ = {number(rank, 2)}, {len(found)} edges")  # fmt: skip
    axes.set(xlabel="exact effect (logits)")
    axes.legend(loc="best", fontsize=8, handletextpad=0.2)


def rank_correlation(a: pd.Series, b: pd.Series) -> float:
    """Return Spearman's rank correlation (mean ranks for ties); NaN with fewer than two different values."""
    return float(a.rank().corr(b.rank())) if len(a) > 1 else float("nan")


def edge_variants(table: pd.DataFrame, threshold: float, title: str) -> Figure:
    """Score ratio of the edges that both variants test, published against fixed, with the threshold on both axes."""
    published, fixed = (table[table["variant"] == name] for name in ("published", "fixed"))
    both = published.merge(fixed[["task", "sender", "receiver", "score_ratio"]], on=["task", "sender", "receiver"],
                           suffixes=("", "_fixed"))  # fmt: skip
    figure, panels = plt.subplots(1, len(TASKS), figsize=(11.4, 4.6), sharex=True, sharey=True)
    low = min(both[["score_ratio", "score_ratio_fixed"]].min().min(), threshold) - 0.05
    high = max(both[["score_ratio", "score_ratio_fixed"]].max().max(), threshold) + 0.05
    for task, axes in zip(TASKS, panels, strict=True):
        chosen = both[both["task"] == task]
        axes.plot([low, high], [low, high], color="0.85", linewidth=0.9, zorder=0)
        axes.axvline(threshold, color="0.4", linestyle="--", linewidth=1, zorder=0)
        axes.axhline(threshold, color="0.4", linestyle="--", linewidth=1, zorder=0)
        for (sender, receiver), (label, colour, marker) in KINDS.items():
            found = chosen[_of_kind(chosen, sender, receiver)]
            axes.scatter(found["score_ratio"], found["score_ratio_fixed"], s=18, marker=marker, color=colour, alpha=0.7,
                         linewidth=0, label=label)  # fmt: skip
        a, b = chosen["score_ratio"] < threshold, chosen["score_ratio_fixed"] < threshold
        axes.set(xlim=(low, high), ylim=(low, high), xlabel="score left, as published")
        counts = f"kept by both {np.sum(a & b)}, as published only {np.sum(a & ~b)},\ncorrected only {np.sum(~a & b)}"
        axes.set_title(f"{TASK_NAMES[task]}\n{counts}, neither {np.sum(~a & ~b)}", fontsize=9.5)
    panels[0].set_ylabel("score left, corrected test")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=9)
    figure.suptitle(title, fontsize=11)
    return figure


def _of_kind(rows: pd.DataFrame, sender: str, receiver: str) -> pd.Series:
    of_receiver = rows["receiver_kind"] == receiver if sender else ~rows["receiver_kind"].isin(["head", "mlp"])
    return of_receiver & (rows["sender_kind"] == sender) if sender else of_receiver
