"""Read-outs of variables: bars for a trained model, curves along training."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from recircuit.figures.circuit_probing.look import COMPONENTS, DARK2, METHODS, VARIABLES, dark_grid, grouped_bars

ORDER = ("a2", "minus_b2", "a_plus_b", "a_minus_b", "free", "shared", "other", "b2")
KEYS = ["seed", "epoch", "task", "variable", "component"]


def readouts(runs: pd.DataFrame, probes: pd.DataFrame) -> pd.DataFrame:
    """Return test accuracies of all three methods in one table: the keys, ``method`` and ``accuracy``."""
    circuit = runs[[*KEYS, "knn_test"]].rename(columns={"knn_test": "accuracy"}).assign(method="circuit")
    others = probes[[*KEYS, "kind", "test_acc"]].rename(columns={"kind": "method", "test_acc": "accuracy"})
    return pd.concat([circuit, others], ignore_index=True)


def bars(runs: pd.DataFrame, probes: pd.DataFrame, component: str, task: int, title: str) -> Figure:
    """E1-F1, F2 and E2-F1 to F4: test accuracy by variable and method, at the last checkpoint; mean over seeds."""
    table = readouts(runs, probes)
    table = table[(table["component"] == component) & (table["task"] == task) & (table["epoch"] == table["epoch"].max())]
    found = [name for name in ORDER if name in set(table["variable"])]
    wide = table.pivot_table(index="variable", columns="method", values="accuracy").loc[found]
    with dark_grid():
        figure, axes = plt.subplots(figsize=(6.4, 4.2))
        spread = table.pivot_table(index="variable", columns="method", values="accuracy", aggfunc=lambda v: v.std(ddof=0))
        errors = {METHODS[m]: spread.loc[found, m] for m in METHODS} if table["seed"].nunique() > 1 else None
        grouped_bars(axes, [VARIABLES[name] for name in found], {METHODS[m]: wide[m].to_numpy() for m in METHODS}, errors)
        axes.set(ylim=(0, 1.02), xlabel="variable", ylabel="test accuracy")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9)
        figure.suptitle(title, fontsize=11)
    return figure


def along_training(runs: pd.DataFrame, probes: pd.DataFrame, component: str, variable: str, title: str) -> Figure:
    """E3-F2 to F4: test accuracy of a variable's read-outs at each checkpoint."""
    table = readouts(runs, probes)
    table = table[(table["component"] == component) & (table["variable"] == variable)]
    with dark_grid():
        figure, axes = plt.subplots(figsize=(6.4, 4.2))
        for i, (method, label) in enumerate(METHODS.items()):
            line(axes, table[table["method"] == method], "accuracy", label, DARK2[i])
        axes.set(ylim=(0, 1.05), xlabel="epoch", ylabel=f"test accuracy, {VARIABLES[variable]}, {COMPONENTS[component]}")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9)
        figure.suptitle(title, fontsize=11)
    return figure


def line(axes: Axes, table: pd.DataFrame, column: str, label: str, colour: str) -> None:
    """Draw a column against the epoch: the mean over seeds, and their range where there are several."""
    by = table.groupby("epoch")[column]
    mean = by.mean()
    axes.plot(mean.index, mean, "o-", color=colour, markersize=4, label=label)
    if table["seed"].nunique() > 1:
        axes.fill_between(mean.index, by.min(), by.max(), color=colour, alpha=0.2, linewidth=0)


def training(curves: pd.DataFrame, title: str) -> Figure:
    """E1-S1, E2-S1, E3-F1: loss (logarithmic) and accuracy of training and test rows."""
    with dark_grid():
        figure, panels = plt.subplots(1, 2, figsize=(10, 3.9))
        for axes, metric in zip(panels, ("loss", "accuracy"), strict=True):
            for i, series in enumerate(("train", "test")):
                chosen = curves[(curves["series"] == series) & (curves["metric"] == metric)]
                by = chosen.groupby("epoch")["value"]
                axes.plot(by.mean().index, by.mean(), color=DARK2[i], linewidth=1.4, label=series)
                if chosen["seed"].nunique() > 1:
                    axes.fill_between(by.mean().index, by.min(), by.max(), color=DARK2[i], alpha=0.2, linewidth=0)
            axes.set(xlabel="epoch", ylabel={"loss": "loss (nats)", "accuracy": "accuracy"}[metric])
        panels[0].set_yscale("log")
        panels[1].set_ylim(-0.02, 1.05)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=9)
        figure.suptitle(title, fontsize=11)
    return figure


def transfer(table: pd.DataFrame, title: str) -> Figure:
    """E1-S2: how soon the trained model and an untrained one learn a variable; loss and accuracy, each variable."""
    starts = {"transfer": "from the trained model", "reinit": "from new weights"}
    with dark_grid():
        figure, panels = plt.subplots(2, 2, figsize=(10, 6.8))
        for variable, line_of in zip(("a2", "a_plus_b"), panels, strict=True):
            for axes, metric in zip(line_of, ("loss", "accuracy"), strict=True):
                for i, (start, label) in enumerate(starts.items()):
                    for series, style in (("train", ":"), ("test", "-")):
                        rows = table[(table["variable"] == variable) & (table["start"] == start) & (table["series"] == series)]
                        mean = rows[rows["metric"] == metric].groupby("epoch")["value"].mean()
                        axes.plot(mean.index, mean, style, color=DARK2[i], label=f"{label}, {series}")
                axes.set(xlabel="epoch", ylabel="loss (nats)" if metric == "loss" else "accuracy")
                axes.set_title(f"answer: {VARIABLES[variable]}", fontsize=10)
            line_of[1].set_ylim(-0.02, 1.05)
        figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9)
        figure.suptitle(title, fontsize=11)
    return figure


def causal_curves(table: pd.DataFrame, column: str, ylabel: str, title: str) -> Figure:
    """E3-F5 to F10: a causal measure at each checkpoint, for the variable that the task needs and for the one it does not."""
    with dark_grid():
        figure, axes = plt.subplots(figsize=(6.4, 4.2))
        for i, variable in enumerate(v for v in ("a2", "b2") if v in set(table["variable"])):
            line(axes, table[table["variable"] == variable], column, VARIABLES[variable], DARK2[i])
        axes.set(ylim=(0, 1.05), xlabel="epoch", ylabel=ylabel)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=9)
        figure.suptitle(title, fontsize=11)
    return figure


def frames(table: pd.DataFrame, title: str) -> Figure:
    """E1-F3: updates of ten classes, five rows of each, in the plane of their first components, while a mask is trained."""
    runs = list(table.groupby(["task", "variable", "component"], sort=True))
    epochs = sorted(table["frame"].unique())
    figure, panels = plt.subplots(len(runs), len(epochs), figsize=(1.5 * len(epochs), 1.62 * len(runs) + 0.5), squeeze=False)
    for axes, frame in zip(panels[0], epochs, strict=True):
        axes.set_title(frame_name(frame), fontsize=8)
    for (key, rows), line_of in zip(runs, panels, strict=True):
        for frame, axes in zip(epochs, line_of, strict=True):
            scatter(axes, rows[rows["frame"] == frame])
        line_of[0].set_ylabel(run_name(*key), fontsize=8)
    figure.suptitle(title, fontsize=11)
    return figure


def scatter(axes: Axes, rows: pd.DataFrame) -> None:
    """Draw one frame, a colour per class."""
    colours = plt.get_cmap("tab10")(np.unique(rows["value"], return_inverse=True)[1] % 10)
    axes.scatter(rows["pc1"], rows["pc2"], c=colours, s=7, linewidths=0)
    axes.set(xticks=[], yticks=[])
    axes.margins(0.12)


def frame_name(frame: int) -> str:
    """Return what a frame shows: the whole block, or the gates before an epoch."""
    return "full" if frame < 0 else f"epoch {frame}"


def run_name(task: int, variable: str, component: str) -> str:
    """Return a mask's name."""
    return (f"task {task}, " if task else "") + f"{VARIABLES[variable]}, {COMPONENTS[component]}"
