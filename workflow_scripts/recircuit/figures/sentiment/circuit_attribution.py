"""Logit lens, direct attribution, attention and the scatter of direct heads (spec 3.5, 3.6)."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from recircuit.experiments.sentiment.roles import Head
from recircuit.figures.attention_maps import pattern_panel, shown_token
from recircuit.figures.sentiment.circuit_maps import head_matrix, signed_panel
from recircuit.figures.sentiment.circuit_patching import NAMES, size_of
from recircuit.figures.sentiment.look import NEGATIVE, POSITIVE
from recircuit.figures.style import number, plt

ITEMS = {
    "a16-attribution": ("attribution", "movie"),
    "a17-attention-from-end": ("end", "movie"),
    "a18-attention-patterns": ("patterns", "movie"),
    "a19-attention-and-output": ("scatter", "movie"),
    "a23-classification-attribution": ("attribution", "classification"),
    "x35-notebook-attribution": ("attribution", "circuit"),
}
LEAST_ATTENTION = 0.01  # at the end of a scatter's scale: below it there is no attention to speak of
ATTENTION, MLP, EMBEDDING = "#2c6fbb", "#e08214", "#7f7f7f"


def attribution_item(file: str, tables: Mapping[str, pd.DataFrame], title: str) -> Figure:
    """Return the picture of an item, from ``se_dla``, ``se_attention`` and ``se_head_scatter``."""
    kind, dataset = ITEMS[file]
    dla, attention, scatter = (tables[name] for name in ("se_dla", "se_attention", "se_head_scatter"))
    dla, attention, scatter = (table[table["dataset"] == dataset] for table in (dla, attention, scatter))
    heading = f"{title}\n{NAMES[dataset]}, n = {int(dla['n'].iloc[0])} prompts"
    if kind == "attribution":
        return attribution(dla, heading)
    if kind == "scatter":
        return head_scatter(scatter, heading)
    return from_end(attention, heading) if kind == "end" else patterns(attention, heading)


# ---- attribution ----------------------------------------------------------------------------------------------------


def attribution(dla: pd.DataFrame, title: str) -> Figure:
    """Draw the logit difference along the stream, every writer's share of it and every head's."""
    heads = head_matrix(dla[dla["kind"] == "head"], "value")
    width, height = size_of(heads)
    top = max(8.4, 0.22 * (dla["kind"] == "layer").sum() + 4.2)
    figure = plt.figure(figsize=(max(top, width + 1), height + 4.0))
    grid = figure.add_gridspec(2, 2, height_ratios=(3.0, height), width_ratios=(1, 1.5))
    lens_line(figure.add_subplot(grid[0, 0]), dla[dla["kind"] == "lens"])
    writers(figure.add_subplot(grid[0, 1]), dla[dla["kind"] == "layer"])
    axes = figure.add_subplot(grid[1, :])
    signed_panel(figure, axes, heads, "each head's share", "logits", ("layer", "head"))
    figure.suptitle(title)
    return figure


def lens_line(axes: Axes, rows: pd.DataFrame) -> None:
    """Draw what the stream at END would add if it were read there, at every layer and behind its attention."""
    x = rows["label"].str.removeprefix("x=").astype(float)
    order = np.argsort(x.to_numpy())
    x, y = x.to_numpy()[order], rows["value"].to_numpy(float)[order]
    axes.plot(x, y, color="black", marker="o", markersize=3, linewidth=1)
    axes.axhline(0, color="#999999", linewidth=0.8)
    axes.annotate(number(y[-1], 2), (x[-1], y[-1]), xytext=(-6, 2), textcoords="offset points", ha="right", fontsize=8)
    axes.set_xlabel("layer (half: behind its attention)", fontsize=9)
    axes.set_ylabel("logit difference (logits)", fontsize=9)
    axes.set_title("the stream so far", fontsize=10)


def writers(axes: Axes, rows: pd.DataFrame) -> None:
    """Draw the shares of embeddings, attention and MLPs; they add up to the logit difference."""
    order = {label: i for i, label in enumerate(("embed", "pos_embed"))}
    last = rows["layer"].max()
    for layer in range(int(last) + 1):
        order |= {f"{layer}_attn_out": len(order), f"{layer}_mlp_out": len(order) + 1}
    rows = rows.sort_values("label", key=lambda labels: labels.map(order))
    kinds = ["attention" if "attn" in label else "MLP" if "mlp" in label else "embedding" for label in rows["label"]]
    colours = {"attention": ATTENTION, "MLP": MLP, "embedding": EMBEDDING}
    for kind, colour in colours.items():
        chosen = [i for i, own in enumerate(kinds) if own == kind]
        axes.bar(chosen, rows["value"].to_numpy(float)[chosen], color=colour, label=kind)
    axes.plot(range(len(rows)), rows["value"], color="black", linewidth=0.6)
    axes.axhline(0, color="#999999", linewidth=0.8)
    names = rows["label"].str.replace("_attn_out", " attn").str.replace("_mlp_out", " mlp").replace("pos_embed", "position")
    axes.set_xticks(range(len(rows)), names, rotation=90, fontsize=7)
    axes.legend(fontsize=8)
    axes.set_title(f"what each writes; together {number(float(rows['value'].sum()), 2)}", fontsize=10)


# ---- attention ------------------------------------------------------------------------------------------------------


def whole_heads(attention: pd.DataFrame) -> list[Head]:
    """Return the heads of which the table has whole patterns."""
    counts = attention.groupby(["layer", "head"])["q"].nunique()
    return [(int(layer), int(head)) for layer, head in counts.index[counts > 1]]


def of_head(attention: pd.DataFrame, head: Head) -> pd.DataFrame:
    """Return one head's rows."""
    return attention[(attention["layer"] == head[0]) & (attention["head"] == head[1])]


def from_end(attention: pd.DataFrame, title: str) -> Figure:
    """Draw the mean attention of the shown heads from END, a row per head."""
    heads, end = whole_heads(attention), attention["q"].max()
    rows = attention[attention["q"] == end]
    keys = rows.drop_duplicates("k").sort_values("k")
    values = np.stack([of_head(rows, head).sort_values("k")["prob"].to_numpy(float) for head in heads])
    figure, axes = plt.subplots(figsize=(0.36 * len(keys) + 2.6, 0.26 * len(heads) + 2.2))
    image = axes.imshow(values, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    names = [f"{shown_token(token)} {k}" for token, k in zip(keys["k_token"], keys["k"], strict=True)]
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
    axes.set_yticks(range(len(heads)), [f"{layer}.{head}" for layer, head in heads], fontsize=8)
    axes.set_ylabel("head")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    figure.colorbar(image, ax=axes, label="mean attention from END")
    figure.suptitle(title)
    return figure


def patterns(attention: pd.DataFrame, title: str, columns: int = 5) -> Figure:
    """Draw the mean patterns of the shown heads."""
    heads = whole_heads(attention)
    columns = min(columns, len(heads))
    n_rows = -(-len(heads) // columns)
    figure, grid = plt.subplots(n_rows, columns, figsize=(3.1 * columns + 0.6, 3.2 * n_rows + 0.6), squeeze=False)
    image = None
    for axes, head in zip(grid.flat, heads, strict=False):
        rows = of_head(attention, head).rename(columns={"q": "q_pos", "k": "k_pos", "prob": "mean"})
        image = pattern_panel(axes, rows, f"{head[0]}.{head[1]}", (), 6)
    for axes in grid.flat[len(heads) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel("query")
    figure.colorbar(image, ax=grid, shrink=min(0.8, 1.4 / n_rows), label="mean attention")
    figure.suptitle(title)
    return figure


# ---- scatter --------------------------------------------------------------------------------------------------------

DOTS = {
    "dot": "output along the correct answers\n(logits; as published)",
    "dot_difference": "output along correct less wrong\n(logits)",
}


def head_scatter(scatter: pd.DataFrame, title: str) -> Figure:
    """Draw attention from END to the adjective against what the head writes, by class: published, and the difference."""
    heads = sorted(set(zip(scatter["layer"].astype(int), scatter["head"].astype(int), strict=True)))
    figure, grid = plt.subplots(2, len(heads), figsize=(3.0 * len(heads) + 0.5, 6.2), squeeze=False)
    for i, head in enumerate(heads):
        own = of_head(scatter, head)
        for axes, (column, label) in zip(grid[:, i], DOTS.items(), strict=True):
            cloud(axes, own, column)
            axes.set_xlim(right=max(axes.get_xlim()[1], LEAST_ATTENTION))
            axes.set_xlim(left=-0.05 * axes.get_xlim()[1])
            if i == 0:
                axes.set_ylabel(label, fontsize=8)
        grid[0, i].set_title(f"{head[0]}.{head[1]}", fontsize=10)
        grid[1, i].set_xlabel("attention from END to the adjective", fontsize=8)
    grid[0, 0].legend(fontsize=8)
    figure.suptitle(title)
    return figure


def cloud(axes: Axes, rows: pd.DataFrame, column: str) -> None:
    """Draw a point per prompt, blue for positive ones."""
    for label, colour, name in ((1, POSITIVE, "positive"), (0, NEGATIVE, "negative")):
        own = rows[rows["label"] == label]
        axes.scatter(own["attention"], own[column], s=14, color=colour, label=name, linewidths=0)
    axes.axhline(0, color="#999999", linewidth=0.8)
    axes.tick_params(labelsize=8)
