"""The circuit as a diagram, drawn from the tables: its nodes, the edges that path patching found, and how much each carries."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from recircuit.figures.style import plt

COLOURS = {"low_embed": "#e8e8e8", "low_head": "#f6d9a8", "low_mlp": "#f2c1b8", "late_head": "#bcd7f0", "late_mlp": "#c7e3c2"}
NAMES = {
    "low_embed": "token YY",
    "low_head": "heads at YY",
    "low_mlp": "MLPs at YY",
    "late_head": "heads at the end",
    "late_mlp": "MLPs at the end",
}
ROLES = ("low_embed", "low_head", "low_mlp", "late_head", "late_mlp")
WIDTH, HEIGHT, GAP = 0.92, 0.42, 1.12


class Place(NamedTuple):
    """Where a node stands."""

    x: float
    y: float
    role: str


def places(circuit: pd.DataFrame) -> dict[str, Place]:
    """Return where each node stands: a column per role, a row per layer; nodes of one layer side by side.

    A node at YY and one of the same name at the end are two: their keys are ``yy:a0.h1`` and ``a0.h1``.
    """
    nodes = circuit[circuit["role"] != "low_mlp_head"]
    rank = {layer: float(i) for i, layer in enumerate(sorted(nodes["layer"].unique()))}
    widest = nodes.groupby(["role", "layer"]).size().groupby("role").max()
    left, found = 0.0, {}
    for role in (r for r in ROLES if r in widest.index):
        room = GAP * widest[role]
        for layer, part in nodes[nodes["role"] == role].groupby("layer"):
            for i, node in enumerate(sorted(part["node"])):
                key = f"yy:{node}" if role.startswith("low") else node
                found[key] = Place(left + room / 2 + (i - (len(part) - 1) / 2) * GAP, rank[layer] * 1.05, role)
        left += room + 0.7
    late = [place.x for place in found.values() if place.role.startswith("late")]
    top = max(place.y for place in found.values()) + 1.2
    return found | {"logits": Place(sum(late) / max(1, len(late)), top, "logits")}


def edges(circuit: pd.DataFrame, ipp: pd.DataFrame, share: float) -> Iterator[tuple[str, str, float]]:
    """Yield (sender, receiver, share of the baseline lost) among the circuit's nodes, from ``share`` on."""
    roles = {role: set(part["node"]) for role, part in circuit.groupby("role")}
    late = roles.get("late_head", set()) | roles.get("late_mlp", set())
    low = roles.get("low_head", set()) | roles.get("low_mlp", set()) | roles.get("low_embed", set())
    rows = ipp[ipp["eligible"]].assign(lost=lambda r: -r["delta_pd"] / r["baseline_pd"].abs())
    for row in rows[rows["lost"] >= share].itertuples():
        if row.stage == "logits" and row.sender in late:
            yield row.sender, "logits", row.lost
        elif row.stage in roles.get("late_mlp", ()) and row.sender in late:
            yield row.sender, row.stage, row.lost
        elif row.stage == "v" and row.sender in low:
            for head in sorted(roles.get("late_head", ())):
                yield f"yy:{row.sender}", head, row.lost
        elif row.stage.startswith("low_") and row.stage[4:] in roles.get("low_mlp", ()) and row.sender in low:
            yield f"yy:{row.sender}", f"yy:{row.stage[4:]}", row.lost


def draw(axes: Axes, circuit: pd.DataFrame, ipp: pd.DataFrame, share: float) -> None:
    """Draw the diagram: an edge is as thick as what the probability difference loses without it."""
    where = places(circuit)
    for sender, receiver, lost in edges(circuit, ipp, share):
        if sender in where and receiver in where and _below(where[sender], where[receiver]):
            a, b = where[sender], where[receiver]
            style = {"color": "#7f7f7f" if sender.startswith("yy:") else "#333333", "alpha": 0.55}
            bend = 0.25 if a.role == b.role else -0.3 if abs(a.y - b.y) < 0.1 and abs(a.x - b.x) > 1.5 * GAP else 0.0
            arrow = FancyArrowPatch(
                (a.x, a.y), (b.x, b.y), arrowstyle="-|>", mutation_scale=8, shrinkA=12, shrinkB=13,
                linewidth=float(np.clip(0.5 + 9 * lost, 0.5, 5)), connectionstyle=f"arc3,rad={bend}", zorder=1, **style,
            )  # fmt: skip
            axes.add_patch(arrow)
    for key, place in where.items():
        _box(axes, key.removeprefix("yy:"), place)
    for role in [r for r in ROLES if (circuit["role"] == r).any()]:
        axes.scatter([], [], marker="s", s=70, color=COLOURS[role], edgecolor="black", linewidth=0.5, label=NAMES[role])
    xs, ys = ([place[i] for place in where.values()] for i in (0, 1))
    axes.set(xlim=(min(xs) - 1.0, max(xs) + 1.0), ylim=(min(ys) - 0.7, max(ys) + 0.6))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), fontsize=8, ncols=5)
    axes.set_axis_off()


def _below(a: Place, b: Place) -> bool:
    return b.role == "logits" or (a.y, a.x) < (b.y, b.x) or a.role != b.role


def _box(axes: Axes, name: str, place: Place) -> None:
    label = {"embed": "embeds"}.get(name, f"MLP {name[1:]}" if name.startswith("m") else name)
    width = 1.3 if name == "logits" else WIDTH
    style = {"facecolor": COLOURS.get(place.role, "white"), "edgecolor": "black", "linewidth": 0.7, "zorder": 2}
    corner = place.x - width / 2, place.y - HEIGHT / 2
    axes.add_patch(FancyBboxPatch(corner, width, HEIGHT, boxstyle="round,pad=0.02,rounding_size=0.08", **style))
    axes.text(place.x, place.y, label, ha="center", va="center", fontsize=8, zorder=3)


def diagram(circuit: pd.DataFrame, ipp: pd.DataFrame, share: float, title: str) -> Figure:
    """Figure 1: the circuit."""
    here = ipp[ipp["dataset"] == "D490"]
    rows = circuit["layer"].nunique()
    width = max(place.x for place in places(circuit).values())
    figure, axes = plt.subplots(figsize=(max(6.4, 0.95 * width + 2.0), max(3.6, 0.75 * rows + 2.0)))
    draw(axes, circuit, here, share)
    source = "published nodes" if (circuit["source"] == "published").all() else "nodes chosen by the rule"
    axes.set_title(f"{source}; edges that cost at least {100 * share:.0f} % of the probability difference", fontsize=9)
    figure.suptitle(title)
    return figure
