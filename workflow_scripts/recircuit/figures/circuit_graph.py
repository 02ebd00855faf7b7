"""Circuits as graphs: heads and MLPs by layer, the edges that path patching keeps, coloured by task (F1, X3, FA1 to FA3)."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse, FancyArrowPatch

from recircuit.core.nodes import Node
from recircuit.figures.style import TASK_COLOURS, TASK_NAMES, plt

TASKS = ("numerals", "numwords", "months")
# By membership, as in the paper: two tasks mix their colours, three are white (nodes) or black (edges).
FILLS = {
    ("numerals",): "#e57373",
    ("numwords",): "#7fb2e5",
    ("months",): "#f2cf63",
    ("numerals", "numwords"): "#b48bd6",
    ("numwords", "months"): "#8ccf8c",
    ("numerals", "months"): "#f2a65a",
    TASKS: "#ffffff",
}
LINES = {
    ("numerals",): "#c0392b",
    ("numwords",): "#2c6fbb",
    ("months",): "#c8960c",
    ("numerals", "numwords"): "#7d3c98",
    ("numwords", "months"): "#2e8b57",
    ("numerals", "months"): "#d35400",
    TASKS: "#000000",
}
RESIDUAL = "logits"
PUBLISHED_KEYS = {"a0.h1", "a1.h5", "a4.h4", "a7.h11", "a9.h1", "m9"}
PUBLISHED_STRESSED = {
    ("a4.h4", "a7.h11"), ("a4.h4", "a9.h1"), ("a7.h11", "a9.h1"), ("a1.h5", "a7.h11"), ("a1.h5", "a9.h1"),
}  # fmt: skip
IMPORTANT = 20.0  # percentage points: what the paper calls an important head
Pair = tuple[str, str]


class Graph(NamedTuple):
    """Nodes and edges with the tasks that have them."""

    nodes: Mapping[str, tuple[str, ...]]
    edges: Mapping[Pair, tuple[str, ...]]


def merged(edges: pd.DataFrame, members: Mapping[str, set[str]]) -> Graph:
    """Collapse q, k and v and merge the tasks: nodes that have a kept edge, and the kept edges, each with its tasks.

    ``members`` names each task's circuit; a node belongs to the tasks whose circuit has it.
    """
    found: dict[Pair, set[str]] = defaultdict(set)
    for row in edges[edges["kept"]].itertuples():
        found[row.sender, row.receiver.partition("<")[0]].add(row.task)
    joined = sorted({node for pair in found for node in pair})  # a set has another order in every process
    nodes = {node: _ordered(t for t in TASKS if node == RESIDUAL or node in members[t]) for node in joined}
    return Graph({n: tasks or TASKS for n, tasks in nodes.items()}, {pair: _ordered(t) for pair, t in found.items()})


def _ordered(tasks: Iterable[str]) -> tuple[str, ...]:
    chosen = set(tasks)
    return tuple(task for task in TASKS if task in chosen)


def key_nodes(drops: pd.DataFrame, *, published: bool) -> set[str]:
    """Return the nodes that are outlined: the paper's, else heads whose removal costs 20 points on the mean over the tasks."""
    if published:
        return PUBLISHED_KEYS
    rows = drops[drops["run"] == "main"]
    mean = rows.groupby(["layer", "head"])["drop_pp"].sum() / len(TASKS)
    return {f"a{layer}.h{head}" for layer, head in mean.index[mean <= -IMPORTANT]}


# ---- layout ---------------------------------------------------------------------------------------------------------


def places(graph: Graph) -> dict[str, tuple[float, float]]:
    """Return where each node stands: a row of heads and above it the MLP, layer by layer, the residual stream on top.

    Heads of a layer are ordered by where their neighbours stand (barycentres, a few sweeps), which keeps crossings few.
    """
    rows: dict[float, list[str]] = defaultdict(list)
    for name in sorted(graph.nodes, key=_sort_key):
        rows[_row(name)].append(name)
    heights = {row: i for i, row in enumerate(sorted(rows))}
    where = {name: (_x(i, len(names)), heights[row]) for row, names in rows.items() for i, name in enumerate(names)}
    near: dict[str, list[str]] = defaultdict(list)
    for a, b in graph.edges:
        near[a].append(b)
        near[b].append(a)
    for _ in range(8):
        for row, names in rows.items():
            mean = {n: np.mean([where[m][0] for m in near[n]]) if near[n] else 0.0 for n in names}
            names.sort(key=lambda n: (mean[n], _sort_key(n)))
            for i, name in enumerate(names):
                where[name] = (_x(i, len(names)), heights[row])
    return {name: (x + _aside(name), y) for name, (x, y) in where.items()}


def _row(name: str) -> float:
    if name == RESIDUAL:
        return np.inf
    node = Node.parse(name)
    return node.layer + (0.5 if node.kind == "mlp" else 0.0)


def _sort_key(name: str) -> tuple:
    node = Node.parse(name)
    return (node.kind, node.layer if node.layer is not None else -1, node.head if node.head is not None else -1)


def _x(i: int, n: int) -> float:
    return i - (n - 1) / 2


def _aside(name: str) -> float:
    # MLPs alternate about the middle, so that the edges of a chain of them do not lie on one line.
    if not name.startswith("m"):
        return 0.0
    return 0.55 if Node.parse(name).layer % 2 else -0.55


# ---- drawing --------------------------------------------------------------------------------------------------------


def label(name: str) -> str:
    """Return a node's name as the paper writes it: ``9.1``, ``MLP 9``, ``resid_post``."""
    if name == RESIDUAL:
        return "resid_post"
    node = Node.parse(name)
    return f"MLP {node.layer}" if node.kind == "mlp" else f"{node.layer}.{node.head}"


def draw(axes: Axes, graph: Graph, keys: Iterable[str], stressed: Iterable[Pair], colours: Mapping, fills: Mapping) -> None:
    """Draw a graph: edges below, shared ones on top of those of one task, then the nodes."""
    where, keys, stressed = places(graph), set(keys), set(stressed)
    many = len(graph.edges)
    thin = 1.1 if many < 60 else 0.7 if many < 250 else 0.45
    for pair, tasks in sorted(graph.edges.items(), key=lambda item: (len(item[1]), item[0])):
        (x1, y1), (x2, y2) = where[pair[0]], where[pair[1]]
        bold = pair in stressed
        bend = 0.0 if abs(y1 - y2) == 1 else 0.16 * (1 if (x1 + x2) >= 0 else -1)
        arrow = FancyArrowPatch(
            (x1, y1), (x2, y2), arrowstyle="-|>", mutation_scale=6 if not bold else 11, shrinkA=12, shrinkB=19,
            connectionstyle=f"arc3,rad={bend}", color=colours[tasks], linewidth=2.4 if bold else thin * len(tasks) ** 0.6,
            alpha=0.95 if bold else 0.35 + 0.15 * len(tasks), zorder=3 if bold else len(tasks) / 2,
        )  # fmt: skip
        axes.add_patch(arrow)
    for name, tasks in graph.nodes.items():
        (x, y), key = where[name], name in keys
        wide = 0.98 if name == RESIDUAL or name.startswith("m") else 0.78
        style = {"edgecolor": "#6b6b6b" if key else "black", "linewidth": 3.0 if key else 0.8, "zorder": 5}
        axes.add_patch(Ellipse((x, y), wide, 0.62, facecolor=fills[tasks], **style))
        axes.text(x, y, label(name), ha="center", va="center", fontsize=8, zorder=6, weight="bold" if key else "normal")
    xs, ys = zip(*where.values(), strict=True)
    axes.set(xlim=(min(xs) - 1.2, max(xs) + 1.2), ylim=(min(ys) - 0.6, max(ys) + 0.6))
    axes.set_axis_off()


def _size(graph: Graph) -> tuple[float, float]:
    where = places(graph)
    xs, ys = ({p[i] for p in where.values()} for i in (0, 1))
    return max(7.5, 1.15 * (max(xs) - min(xs)) + 3.4), max(4.5, 0.62 * len(ys) + 1.6)


def merged_circuit(
    edges: pd.DataFrame, members: Mapping[str, set[str]], drops: pd.DataFrame, title: str, *, published: bool
) -> Figure:
    """Figure 1: the three circuits in one."""
    graph = merged(edges, members)
    figure, axes = plt.subplots(figsize=_size(graph))
    draw(axes, graph, key_nodes(drops, published=published), PUBLISHED_STRESSED if published else (), LINES, FILLS)
    used = {*graph.nodes.values(), *graph.edges.values()}
    handles = [
        Line2D(
            [], [], marker="o", markersize=9, markerfacecolor=FILLS[t], markeredgecolor="black", color=LINES[t], label=_names(t)
        )
        for t in FILLS
        if t in used
    ]
    grey = {"markerfacecolor": "white", "markeredgecolor": "#6b6b6b", "markeredgewidth": 2.5}
    handles.append(Line2D([], [], marker="o", markersize=9, linestyle="", label="key node", **grey))
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8)
    figure.suptitle(title)
    return figure


def _names(tasks: tuple[str, ...]) -> str:
    return "all three tasks" if tasks == TASKS else " and ".join(TASK_NAMES[t] for t in tasks) + " only" * (len(tasks) == 1)


def task_circuit(edges: pd.DataFrame, task: str, title: str) -> Figure:
    """FA1 to FA3: one task's circuit; a head shows which of its inputs are reached."""
    rows = edges[edges["kept"] & (edges["task"] == task)]
    names = {row.sender for row in rows.itertuples()} | {row.receiver.partition("<")[0] for row in rows.itertuples()}
    graph = merged(rows, {t: names if t == task else set() for t in TASKS})
    graph = Graph(dict.fromkeys(graph.nodes, (task,)), graph.edges)
    inputs: dict[str, set[str]] = defaultdict(set)
    for receiver in rows["receiver"]:
        name, mark, rest = receiver.partition("<")
        if mark:
            inputs[name].add(rest[0])
    figure, axes = plt.subplots(figsize=_size(graph))
    draw(axes, graph, (), (), {(task,): TASK_COLOURS[task]}, {(task,): FILLS[(task,)]})
    for name, (x, y) in places(graph).items():
        if inputs[name]:
            text = " ".join(letter for letter in "qkv" if letter in inputs[name])
            box = {"boxstyle": "round,pad=0.12", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}
            axes.text(x, y - 0.42, text, ha="center", va="center", fontsize=6.5, zorder=7, bbox=box)
    note = f"{len(graph.nodes)} nodes, {len(rows)} kept edges; q, k, v below a head: the inputs that an edge reaches"
    axes.set_title(note, fontsize=9)
    figure.suptitle(title)
    return figure
