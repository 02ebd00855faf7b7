"""Curves and histograms of the sequence-continuation paper: the answer's probability, and where in the model it appears."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from recircuit.figures.sequence_continuation import TASKS
from recircuit.figures.style import TASK_COLOURS, TASK_NAMES, number

VARIANTS = {"published": "as published", "fixed": "LayerNorm everywhere"}
BINS = 20


def lengths(table: pd.DataFrame, title: str) -> Figure:
    """Appendix: probability of the next numeral against the length; mean over starts, from the first, and each (thin)."""
    wide = table.pivot(index="length", columns="start", values="p_next").sort_index()
    first, last = wide.columns.min(), wide.columns.max()
    figure, axes = plt.subplots(figsize=(7.2, 4.2))
    axes.plot(wide.index, wide, color="0.85", linewidth=0.8, zorder=1)
    axes.plot([], [], color="0.85", linewidth=0.8, label="each start")
    axes.plot(wide.index, wide[first], "s--", color="0.45", markersize=4, linewidth=1, label=f"from {first}")
    colour = TASK_COLOURS["numerals"]
    axes.plot(wide.index, wide.mean(axis=1), "o-", color=colour, label=f"mean over starts {first} to {last}", zorder=3)
    axes.set_xticks(wide.index)
    axes.set(ylim=(-0.02, 1.04), xlabel="numerals in the prompt", ylabel="probability of the next numeral")
    figure.suptitle(title, fontsize=11)
    axes.legend(loc="lower right")
    return figure


def answer_probability(baseline: pd.DataFrame, prompts: pd.DataFrame, title: str) -> Figure:
    """Histograms of the probability of the answer with an end-of-text token in front, tasks by templates."""
    clean = prompts.loc[prompts["set"] == "clean", ["task", "row", "template"]]
    rows = baseline[baseline["bos"]].merge(clean, on=["task", "row"], validate="one_to_one")
    templates = list(dict.fromkeys(clean.sort_values("row")["template"]))
    figure, panels = plt.subplots(
        len(TASKS), len(templates), figsize=(3.3 * len(templates), 6.6), sharex=True, sharey="row", squeeze=False
    )
    for task, line in zip(TASKS, panels, strict=True):
        for template, axes in zip(templates, line, strict=True):
            found = rows.loc[(rows["task"] == task) & (rows["template"] == template), "p_corr"]
            axes.hist(found, bins=BINS, range=(0, 1), color=TASK_COLOURS[task], edgecolor="white", linewidth=0.5)
            axes.axvline(found.mean(), color="0.25", linestyle="--", linewidth=1)
            axes.text(0.03, 0.95, f"mean {number(found.mean(), 2)}\n{len(found)} prompts", transform=axes.transAxes,
                      va="top", fontsize=9)  # fmt: skip
            axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
            axes.margins(y=0.1)
        line[0].set_ylabel(f"{TASK_NAMES[task]}\nprompts")
    for template, axes in zip(templates, panels[0], strict=True):
        axes.set_title(f"“{'born' if template == 'names' else template}” prompts")
    panels[-1][len(templates) // 2].set_xlabel("probability of the answer (the next member)")
    figure.suptitle(title, fontsize=11)
    return figure


def lens_blocks(table: pd.DataFrame, title: str) -> Figure:
    """Share of prompts whose most likely token after each block is the answer or the last member; variants by tasks."""
    variants = [name for name in VARIANTS if name in set(table["variant"])]
    figure, panels = plt.subplots(
        len(variants), len(TASKS), figsize=(10.5, 2.8 * len(variants) + 0.6), sharex=True, sharey=True, squeeze=False
    )
    names = block_names(table["block"])
    ticks = list(names)[:: max(1, len(names) // 7)]
    for variant, line in zip(variants, panels, strict=True):
        for task, axes in zip(TASKS, line, strict=True):
            chosen = table[(table["variant"] == variant) & (table["task"] == task)].sort_values("block")
            axes.plot(chosen["block"], 100 * chosen["top1_corr"], "o-", color=TASK_COLOURS[task], markersize=4)
            axes.plot(chosen["block"], 100 * chosen["top1_incorr"], "s--", color="0.45", markersize=3.5, linewidth=1)
            axes.set_xticks(ticks, [names[block].removeprefix("block ")[:3] for block in ticks])
            axes.set(ylim=(-3, 105))
        line[0].set_ylabel(f"{VARIANTS[variant]}\nprompts (percent)")
    for task, axes in zip(TASKS, panels[0], strict=True):
        axes.set_title(TASK_NAMES[task])
    for axes in panels[-1]:
        axes.set_xlabel("after block")
    handles = [plt.Line2D([], [], color="0.1", marker="o"), plt.Line2D([], [], color="0.45", marker="s", linestyle="--")]
    labels = ["most likely token is the answer", "most likely token is the last member shown"]
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=9)
    figure.suptitle(title, fontsize=11)
    return figure


def block_names(blocks: pd.Series) -> dict[int, str]:
    """Return what each entry of a lens is called: the first is the embeddings, entry j the stream after block j − 1."""
    entries = np.sort(blocks.unique())
    return {int(entry): "embeddings" if i == 0 else f"block {i - 1}" for i, entry in enumerate(entries)}
