"""What a model writes with heads knocked out: accuracies of word problems above, and examples in words below them."""

import textwrap
from collections.abc import Iterable

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from recircuit.figures.knockouts import SETS, knockout_table

FAMILY, ELSEWHERE = "word", ("interval", "arithmetic")  # what names of experiments begin with
SHOWN = ("none", "shared", "big3")
WIDTHS = (30, 34)  # characters in a line: of a prompt, of an output
LONGEST = 6  # lines of a prompt or an output
LINE, CHARACTER = 0.175, 0.068  # inches
HEADINGS = {"none": "whole model", "shared": f"without the {SETS['shared']}", "big3": f"without the {SETS['big3']}"}
RIGHT, WRONG = "#1b7a4b", "#a32b20"


def word_problems(scores: pd.DataFrame, knockouts: pd.DataFrame, title: str) -> Figure:
    """Table of the accuracies of word problems, and below it examples of them and of what no other table shows."""
    figure = knockout_table(scores, FAMILY, title)
    names = sorted(knockouts["experiment"].unique(), key=lambda name: (not name.startswith(FAMILY), name))
    rows = examples(knockouts, [name for name in names if not name.startswith(ELSEWHERE)])
    sets = [name for name in SHOWN if any(name in outputs for _, outputs in rows)]
    lines = [max(len(text) for text in _wrapped(prompt, outputs, sets)) for prompt, outputs in rows]
    width, height = figure.get_size_inches()
    width, below = max(width, CHARACTER * _total(sets) + 0.3), LINE * _height(lines)
    figure.set_size_inches(width, height + below)
    share = below / (height + below)
    figure.get_layout_engine().set(rect=(0, share, 1, 1 - share))
    axes = figure.add_axes((0.15 / width, 0, 1 - 0.3 / width, share))
    axes.set_in_layout(False)
    _write(axes, rows, sets, lines)
    return figure


def _total(sets: list[str]) -> int:
    return WIDTHS[0] + len(sets) * WIDTHS[1]


def _height(lines: list[int]) -> float:
    """Return the height of the examples in lines: a heading, and half a line and more between them."""
    return sum(lines) + 0.7 * len(lines) + 2.5


def examples(knockouts: pd.DataFrame, experiments: Iterable[str], per_subset: int = 2) -> list[tuple[str, dict]]:
    """Return prompts with what is written after them, set to (output, correct or None where there is no answer).

    Of each subset the first prompts that the whole model gets right, or the first ones; zero ablation, first draw.
    """
    order = {name: i for i, name in enumerate(experiments)}
    rows = knockouts[
        knockouts["experiment"].isin(list(order)) & (knockouts["ablation"] == "zero") & knockouts["ablated"].isin(SHOWN)
    ]
    rows = rows[rows["draw"] == rows["draw"].min()]
    found = []
    for (_, _), part in sorted(rows.groupby(["experiment", "subset"]), key=lambda item: (order[item[0][0]], item[0][1])):
        whole = part[part["ablated"] == "none"].sort_values(["correct", "prompt"], ascending=[False, True], kind="stable")
        for prompt in whole["prompt"][:per_subset]:
            chosen = part[part["prompt"] == prompt]
            outputs = {row.ablated: (row.output, bool(row.correct) if row.answer else None) for row in chosen.itertuples()}
            found.append((chosen["text"].iloc[0], outputs))
    return found


def _wrapped(prompt: str, outputs: dict, sets: list[str]) -> list[list[str]]:
    texts = [prompt, *(outputs[name][0] if name in outputs else "" for name in sets)]
    shown = [text.strip(" ").replace("\n", "↵") or "(nothing)" for text in texts]
    return [textwrap.wrap(text, WIDTHS[min(i, 1)] - 3, max_lines=LONGEST, placeholder=" …") for i, text in enumerate(shown)]


def _write(axes: Axes, rows: list[tuple[str, dict]], sets: list[str], lines: list[int]) -> None:
    """Write prompts and outputs in columns; green: the right answer, red: a wrong one, black: none is asked for."""
    starts = [0, *(WIDTHS[0] + i * WIDTHS[1] for i in range(len(sets)))]
    axes.set(xlim=(0, _total(sets)), ylim=(_height(lines), 0))
    axes.axis("off")
    for start, heading in zip(starts, ["prompt", *(HEADINGS[name] for name in sets)], strict=True):
        axes.text(start, 1, heading, fontsize=9, fontweight="bold", va="center")
    y = 2.0
    for (prompt, outputs), height in zip(rows, lines, strict=True):
        axes.axhline(y - 0.1, color="0.85", linewidth=0.8)
        marks = [None, *(outputs.get(name, ("", None))[1] for name in sets)]
        for start, text, mark in zip(starts, _wrapped(prompt, outputs, sets), marks, strict=True):
            colour = {True: RIGHT, False: WRONG, None: "black"}[mark]
            axes.text(
                start, y + 0.15, "\n".join(text), fontsize=8.5, va="top", color=colour, linespacing=1.25, parse_math=False
            )
        y += height + 0.7
