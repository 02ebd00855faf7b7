"""Attention as the paper draws it: mean patterns, lower triangle, inferno, the cells that matter framed (F2, F3, FA7, FL1)."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from recircuit.experiments.sequence_continuation.roles import LAST, STEPS, best_heads, last_to_members, similar_member
from recircuit.figures.style import TASK_NAMES, plt

Head = tuple[int, int]
TASKS = ("numerals", "numwords", "months")
MIXED = ("months_among_random_numerals", "months_among_ordered_numerals")
LLAMA = ("llama_months", "llama_spanish_months", "llama_plus2", "llama_plus3", "llama_plus100", "llama_random_numwords")
NAMES = TASK_NAMES | {
    "months_among_random_numerals": "months among random numerals",
    "months_among_ordered_numerals": "months among ordered numerals",
    "llama_months": "months",
    "llama_spanish_months": "Spanish months",
    "llama_plus2": "steps of 2",
    "llama_plus3": "steps of 3",
    "llama_plus100": "steps of 100",
    "llama_random_numwords": "months among random number words",
}
# The paper's heads of gpt2-small: similar members, last token to members, and duplicate tokens.
PUBLISHED = {"similar": [(1, 5), (4, 4)], "last": [(7, 11), (9, 1)], "other": [(0, 1)]}
ITEMS = {
    "f2-attention-similar": (("similar",), ("numerals", MIXED[0])),
    "f3-attention-last": (("last",), TASKS),
    "fa7-attention-numerals": (("other", "similar", "last"), ("numerals",)),
    "fa7b-attention-numwords": (("other", "similar", "last"), ("numwords",)),
    "fa7c-attention-months": (("other", "similar", "last"), ("months",)),
    "fa7d-months-among-random-numerals": (("other", "similar", "last"), MIXED[:1]),
    "fa7e-months-among-ordered-numerals": (("other", "similar", "last"), MIXED[1:]),
}


def shown_heads(attention: pd.DataFrame, shared: Iterable[Head], *, published: bool) -> dict[str, list[Head]]:
    """Return the heads of each kind: the paper's, else those with the largest scores on the three tasks.

    Only ``shared`` heads, those of all three circuits, are looked at if there are five of them; the fifth is the next best from
    the last token to the members.
    """
    if published:
        return PUBLISHED
    rows = attention[attention["dataset"].isin(TASKS)]
    allowed = set(shared)
    if len(allowed) >= 5:
        rows = rows[[pair in allowed for pair in zip(rows["layer"], rows["head"], strict=True)]]
    similar = best_heads(similar_member(rows), 2)
    others = [head for head in best_heads(last_to_members(rows), len(similar) + 3) if head not in similar]
    return {"similar": similar, "last": others[:2], "other": others[2:3]}


def framed(rows: pd.DataFrame, kind: str) -> list[tuple[int, int]]:
    """Return (query, key) positions to frame: a member's attention to the one before, or the last token's to the members."""
    if kind == "similar":
        chosen = rows[rows["q_role"].map(STEPS) == rows["k_role"]]
    else:
        chosen = rows[rows["q_role"].isin(LAST) & rows["k_role"].isin([*STEPS])]
    return list(zip(chosen["q_pos"].astype(int), chosen["k_pos"].astype(int), strict=True))


def pattern_panel(axes: Axes, rows: pd.DataFrame, title: str, frames: Sequence[tuple[int, int]], size: float) -> AxesImage:
    """Draw one head's mean pattern: queries down, keys across, ticks from the first prompt's tokens."""
    wide = rows.pivot(index="q_pos", columns="k_pos", values="mean").sort_index()
    tokens = rows.drop_duplicates("q_pos").sort_values("q_pos")["q_token"]
    labels = [shown_token(token) for token in tokens]
    values = wide.to_numpy(float, copy=True)
    values[np.triu_indices_from(values, 1)] = np.nan
    image = axes.imshow(values, cmap="inferno", vmin=0, vmax=1)
    axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=size)
    axes.set_yticks(range(len(labels)), labels, fontsize=size)
    axes.tick_params(length=1.5)
    for q, k in frames:
        axes.add_patch(Rectangle((k - 0.5, q - 0.5), 1, 1, fill=False, edgecolor="#22d3ee", linewidth=1.4))
    axes.set_title(title, fontsize=10)
    return image


def shown_token(token: str) -> str:
    """Return a token as a label: without the mark of its leading space, and a sign where nothing would be seen."""
    return token.replace("Ġ", "").replace("▁", "").replace("\n", "↵").strip() or "␣"


def _kind_of(head: Head, kinds: dict[str, list[Head]]) -> str:
    return next(kind for kind, heads in kinds.items() if head in heads)


def attention_item(attention: pd.DataFrame, shared: Iterable[Head], file: str, title: str, *, published: bool) -> Figure:
    """Return the picture of an item of the GPT-2 part."""
    wanted, datasets = ITEMS[file]
    kinds = shown_heads(attention, shared, published=published)
    heads = [head for kind in wanted for head in kinds[kind]]
    panels = [(head, dataset) for dataset in datasets for head in heads]
    if len(datasets) > 1:  # a row per head
        panels = [(head, dataset) for head in heads for dataset in datasets]
    columns = len(datasets) if len(datasets) > 1 else min(3, len(heads))
    return _grid(attention, panels, kinds, columns, title)


def llama_attention(attention: pd.DataFrame, title: str) -> Figure:
    """FL1: the heads that the circuits share (rows) on the paper's prompts (columns)."""
    heads = sorted(set(zip(attention["layer"].astype(int), attention["head"].astype(int), strict=True)))
    datasets = [name for name in LLAMA if (attention["dataset"] == name).any()]
    panels = [(head, dataset) for head in heads for dataset in datasets]
    return _grid(attention, panels, {"last": heads}, len(datasets), title)


def _grid(
    attention: pd.DataFrame, panels: Sequence[tuple[Head, str]], kinds: dict[str, list[Head]], columns: int, title: str
) -> Figure:
    rows = -(-len(panels) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(4.2 * columns + 0.7, 4.3 * rows + 0.5), squeeze=False)
    image = None
    for axes, (head, dataset) in zip(grid.flat, panels, strict=False):
        found = attention[(attention["dataset"] == dataset) & (attention["layer"] == head[0]) & (attention["head"] == head[1])]
        frames = framed(found, _kind_of(head, kinds))
        size = 7 if found["q_pos"].nunique() <= 26 else 5
        image = pattern_panel(axes, found, f"{head[0]}.{head[1]} · {NAMES.get(dataset, dataset)}", frames, size)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel("query")
    for axes in grid[-1]:
        axes.set_xlabel("key")
    figure.colorbar(image, ax=grid, shrink=min(0.8, 1.2 / rows), label="mean attention")
    figure.suptitle(title)
    return figure
