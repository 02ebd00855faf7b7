"""What the vocabulary says about a model's inside: tables of the logit lens, next and copy scores of every head."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from recircuit.figures.heat_table import heat_table
from recircuit.figures.sequence_continuation import TASKS
from recircuit.figures.sequence_curves import VARIANTS, block_names
from recircuit.figures.style import TASK_NAMES, number
from recircuit.tasks.sequence_continuation import members

ANSWER, LAST, OTHER, PLAIN = "#f2b134", "#f6dfa8", "#e3ecf5", "#ffffff"
FIRST = 5  # a score counts what is among the first five tokens
LONGEST = 11  # characters of a token that a cell has room for


def logit_lens(lens: pd.DataFrame, counts: pd.DataFrame, title: str) -> Figure:
    """Table: the likeliest tokens after each block, variants by sequences; the answer, last and other members coloured."""
    variants = [name for name in VARIANTS if name in set(lens["variant"])]
    prompts = sorted(lens["prompt"].unique(), key=lambda prompt: TASKS.index(task_of(prompt)))
    names, ranks = block_names(lens["block"]), lens["rank"].nunique()
    figure, panels = plt.subplots(
        len(variants), len(prompts), squeeze=False,
        figsize=(len(prompts) * (0.78 * ranks + 0.2) + 1.1, len(variants) * (0.235 * len(names) + 0.75) + 0.9),
    )  # fmt: skip
    for variant, line in zip(variants, panels, strict=True):
        for prompt, axes in zip(prompts, line, strict=True):
            chosen = lens[(lens["variant"] == variant) & (lens["prompt"] == prompt)]
            _token_table(axes, chosen.pivot(index="block", columns="rank", values="token").sort_index(), prompt)
            axes.set_title(f"“{prompt}”" if variant == variants[0] else "", fontsize=10)
            axes.set_xlabel(_count(counts, variant, task_of(prompt)), fontsize=8.5)
        line[0].set_yticks(range(len(names)), names.values(), fontsize=8.5)
        line[0].set_ylabel(f"{VARIANTS[variant]}", fontsize=10)
    colours = ((ANSWER, "the next member (correct)"), (LAST, "the last member shown"), (OTHER, "another member"))
    patches = [Patch(facecolor=colour, edgecolor="0.8", label=label) for colour, label in colours]
    figure.legend(handles=patches, loc="outside lower center", ncols=3, fontsize=9)
    figure.suptitle(title, fontsize=11)
    return figure


def task_of(prompt: str) -> str:
    """Return the task of a bare sequence, by its first word."""
    first = prompt.split()[0]
    return next(task for task in TASKS if first in members(task))


def _token_table(axes: Axes, tokens: pd.DataFrame, prompt: str) -> None:
    """Draw tokens [block rank] as a table; the colour says whether a token is the answer or another member."""
    sequence, last = members(task_of(prompt)), prompt.split()[-1]
    answer = sequence[sequence.index(last) + 1]
    for i, row in enumerate(tokens.to_numpy()):
        for j, token in enumerate(row):
            word = token.strip()
            colour = ANSWER if word == answer else LAST if word == last else OTHER if word in sequence else PLAIN
            axes.add_patch(plt.Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor=colour, edgecolor="0.85", linewidth=0.6))
            text = visible(token)
            axes.text(j, i, text, ha="center", va="center", fontsize=8 if len(text) <= 8 else 6.5, parse_math=False)
    axes.set(xlim=(-0.5, tokens.shape[1] - 0.5), ylim=(len(tokens) - 0.5, -0.5), yticks=[])
    axes.set_xticks(range(tokens.shape[1]), range(1, tokens.shape[1] + 1), fontsize=8)
    axes.xaxis.set_ticks_position("top")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def visible(token: str) -> str:
    """Write a token with its blanks visible, cut to what a cell has room for."""
    text = "".join(c if c.isprintable() else "�" for c in token.replace(" ", "␣").replace("\n", "↵").replace("\t", "⇥"))
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _count(counts: pd.DataFrame, variant: str, task: str) -> str:
    found = counts[(counts["variant"] == variant) & (counts["task"] == task)]
    if found.empty:
        return ""
    row = found.iloc[0]
    return f"{TASK_NAMES[task]}: {row['hits']} of {row['total']} prompts ({number(100 * row['share'], 1)} %)"


# --- OV scores (E8) -----------------------------------------------------------------------------------------------------------


def ov_columns(table: pd.DataFrame) -> dict[tuple[str, str, str], str]:
    """Return the columns of OV scores that there are, (task, variant, kind) to a heading: by task, next before copy."""
    there = set(table[["task", "variant", "kind"]].itertuples(index=False, name=None))
    order = {name: i for names in (TASKS, VARIANTS) for i, name in enumerate(names)}
    columns = sorted(there, key=lambda column: (order[column[0]], column[2] == "copy", order[column[1]], column[2]))
    return {column: f"{TASK_NAMES[column[0]]}\n{_kind_name(*column, there)}" for column in columns}


def _kind_name(task: str, variant: str, kind: str, there: set) -> str:
    name = kind.replace("_", " ")
    if task == "months" and kind == "next":  # the authors look for "second" after "January"
        return "next (ordinal)" if variant == "published" else "next (month)"
    twice = len({column for column in there if (column[0], column[2]) == (task, kind)}) > 1
    return f"{name}, {variant}" if twice else name


def _once(table: pd.DataFrame) -> pd.DataFrame:
    """Return the scores to show: both variants are the same but for what follows a month."""
    differs = (table["task"] == "months") & (table["kind"] == "next")
    return table[(table["k"] == FIRST) & (differs | (table["variant"] == "published"))]


def ov_scores(table: pd.DataFrame, title: str, shown: int = 15) -> Figure:
    """Table: next and copy scores of the heads with the largest next score, and the mean over all heads below."""
    table = _once(table)
    columns = ov_columns(table)
    wide = table.pivot_table(index=["layer", "head"], columns=["task", "variant", "kind"], values="score_pct")[list(columns)]
    following = [column for column in columns if column[2] != "copy"]
    largest = wide[following].max(axis=1).sort_values(ascending=False, kind="stable")
    best = largest.index[: min(shown, max(1, int((largest > 0).sum())))]
    values = np.vstack([wide.loc[best].to_numpy(), wide.mean().to_numpy()])
    return heat_table(
        values,
        [[number(value, 1) for value in row] for row in values[:-1]] + [[number(value, 2) for value in values[-1]]],
        [*(f"{layer}.{head}" for layer, head in best), f"mean of all {len(wide)}"],
        list(columns.values()),
        title=title,
        cmap="Greens",
        norm=Normalize(0, 110),
        row_label="head (layer.head)",
        column_label="tokens whose next member (or themselves) the head's OV circuit puts among its first five (percent)",
        cell=(1.3, 0.34),
        rules=[len(best) - 1],
    )


def ov_map(table: pd.DataFrame, title: str) -> Figure:
    """Heat maps of the OV scores, layers by heads, a panel for each task and kind, the best heads named above it."""
    table = _once(table)
    columns = ov_columns(table)
    grid = [[column for column in columns if column[0] == task] for task in TASKS]
    figure, panels = plt.subplots(
        len(grid),
        max(map(len, grid)),
        squeeze=False,
        figsize=(3.2 * max(map(len, grid)) + 1.0, 3.3 * len(grid)),
        layout="compressed",
    )
    for line, chosen in zip(panels, grid, strict=True):
        for axes in line[len(chosen) :]:
            axes.set_visible(False)
        for column, axes in zip(chosen, line, strict=False):
            image = _map(axes, table, column, columns[column].replace("\n", ": "))
    figure.colorbar(image, ax=panels, label="score (percent)", shrink=0.5, aspect=40)
    figure.suptitle(title, fontsize=11)
    return figure


def _map(axes: Axes, table: pd.DataFrame, column: tuple[str, str, str], heading: str):
    task, variant, kind = column
    chosen = table[(table["task"] == task) & (table["variant"] == variant) & (table["kind"] == kind)]
    scores = chosen.pivot(index="layer", columns="head", values="score_pct").sort_index()
    best = chosen[chosen["score_pct"] > 0].nlargest(2, "score_pct")
    named = ", ".join(f"{row.layer}.{row.head} {number(row.score_pct, 0)} %" for row in best.itertuples())
    axes.set_title(f"{heading}\n{named or 'no head above zero'}", fontsize=9.5)
    layer_by_head(axes, scores)
    return axes.imshow(scores, cmap="Greens", norm=Normalize(0, 100), aspect="equal")


def layer_by_head(axes: Axes, values: pd.DataFrame) -> None:
    """Name the axes of a map [layer head], with a tick for every cell of a small one."""
    for axis, numbers in ((axes.xaxis, values.columns), (axes.yaxis, values.index)):
        step = 1 if len(numbers) <= 12 else 4
        axis.set_ticks(range(0, len(numbers), step), [str(number) for number in numbers[::step]], fontsize=8)
    axes.tick_params(length=2)
    axes.set(xlabel="head", ylabel="layer")
    axes.spines[:].set_visible(True)
