"""Figure 5: the circuit on ToyMovieReview as a schematic, drawn from our own scores of heads.

Tokens stand along the bottom, a row of boxes per layer that has a head of the circuit, and each role's heads above the token at
which they write. A head with two roles stands in both places.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from recircuit.experiments.sentiment.roles import FINAL, ROLES, path_scores
from recircuit.figures.style import number, plt
from recircuit.tasks.corpus import word_data

COLOURS = {"tokenizer": "#e3e3e3", "mapping": "#f6d9a8", "intermediate": "#c7e3c2", "direct": "#bcd7f0"}
LINES = {"tokenizer": "#8a8a8a", "mapping": "#c8891a", "intermediate": "#3d8b37", "direct": "#2c6fbb"}
NAMES = {
    "tokenizer": "tokenizer heads: write at the words themselves",
    "mapping": "mapping heads: carry the words to the summary",
    "intermediate": "intermediate heads: read the summary",
    "direct": "direct heads: read the words",
}
WORDS, SUMMARY, END = ("ADJ", "VRB"), "SUM", "END"
SHOWN = {"ADJ": "adjective", "VRB": "verb"}
BOX, HEIGHT, ROW, PAD = 0.94, 0.52, 0.82, 0.16
LANES, WORD_ROW = {"mapping": -0.78, "direct": -1.0}, -1.62
_MARK = re.compile(r"<([A-Z+0-9]+)(?:\|([^>]*))?>|([^\s<]+)")


@dataclass(frozen=True)
class Group:
    """A role's heads at one position: boxes (layer, head, x, y, score) and the frame (left, bottom, right, top) around them."""

    role: str
    position: str
    boxes: tuple[tuple[int, int, float, float, float], ...]
    frame: tuple[float, float, float, float]

    @property
    def middle(self) -> float:
        """Where its frame's middle is."""
        return (self.frame[0] + self.frame[2]) / 2


@dataclass(frozen=True)
class Token:
    """A token of the template: its text, the position's name (none for most) and where its middle is."""

    text: str
    name: str
    x: float


def template_tokens() -> list[tuple[str, str]]:
    """Return (text, name of the position or nothing) of the template's words and stops; the last one is END."""
    template = word_data("sentiment/toy_sets")["templates"]["movie"]
    found = [(mark[2] or mark[3] or SHOWN[mark[1]], mark[1] or "") for mark in _MARK.finditer(template)]
    found = [(text, name) for text, name in found if text.strip()]
    return [*found[:-1], (found[-1][0], END)]


def layout(circuit: pd.DataFrame, scores: Mapping[tuple[int, int], float]) -> tuple[list[Token], list[Group], dict[int, float]]:
    """Place tokens and groups from left to right, and the circuit's layers from below; scores by head replace the table's."""
    rank = {int(layer): i * ROW for i, layer in enumerate(sorted(circuit["layer"].unique()))}
    tokens, groups, left = [], [], 0.0
    for text, name in template_tokens():
        roles = [role for role in ROLES if ((circuit["role"] == role) & (circuit["position"] == name)).any()]
        widths = [_width(_members(circuit, role, name)) for role in roles]
        room = max(0.125 * len(text) + 0.3, sum(widths) + 0.4 * len(widths))
        start = left + (room - sum(widths) - 0.4 * max(0, len(widths) - 1)) / 2
        for role, width in zip(roles, widths, strict=True):
            groups.append(_group(_members(circuit, role, name), role, name, start + width / 2, rank, scores))
            start += width + 0.4
        tokens.append(Token(text, name, left + room / 2))
        left += room + 0.06
    return tokens, groups, rank


def _members(circuit: pd.DataFrame, role: str, position: str) -> pd.DataFrame:
    rows = circuit[(circuit["role"] == role) & (circuit["position"] == position)]
    return rows.sort_values(["layer", "head"])


def _width(members: pd.DataFrame) -> float:
    most = int(members.groupby("layer").size().max())
    return most * BOX + (most - 1) * 0.08 + 2 * PAD


def _group(
    members: pd.DataFrame,
    role: str,
    position: str,
    x: float,
    rank: Mapping[int, float],
    scores: Mapping[tuple[int, int], float],
) -> Group:
    boxes = []
    for layer, row in members.groupby("layer"):
        for i, member in enumerate(row.itertuples()):
            key = int(layer), int(member.head)
            score = scores.get(key, member.score) if role in ("intermediate", "direct") else member.score
            boxes.append((*key, x + (i - (len(row) - 1) / 2) * (BOX + 0.08), rank[int(layer)], float(score)))
    ys, width = [box[3] for box in boxes], _width(members)
    bottom, top = min(ys) - HEIGHT / 2 - PAD, max(ys) + HEIGHT / 2 + PAD
    return Group(role, position, tuple(boxes), (x - width / 2, bottom, x + width / 2, top))


# ---- drawing --------------------------------------------------------------------------------------------------------


def routes(tokens: Sequence[Token], groups: Sequence[Group], top: float) -> Iterator[tuple[str, list[tuple[float, float]]]]:
    """Yield (role that gives the colour, corners) of every arrow: from the words along a lane, then by way of the summary."""
    words = [token.x for token in tokens if token.name in WORDS]
    above = WORD_ROW + HEIGHT / 2
    by_role = {role: [group for group in groups if group.role == role] for role in ROLES}
    for group in by_role["tokenizer"]:
        yield "tokenizer", [(group.middle, above), (group.middle, group.frame[1])]
    for role, shift in (("mapping", -0.12), ("direct", 0.12)):
        for group in by_role[role]:
            for x in words:
                yield (
                    role,
                    [(x + shift, above), (x + shift, LANES[role]), (group.middle, LANES[role]), (group.middle, group.frame[1])],
                )
    for sender in by_role["mapping"]:
        for group in by_role["intermediate"]:
            # From side to side, in the part of the columns that both have in common where there is one.
            y = min(max((sender.frame[1] + sender.frame[3]) / 2, group.frame[1] + 0.2), group.frame[3] - 0.2)
            yield "mapping", [(sender.frame[2], (sender.frame[1] + sender.frame[3]) / 2), (group.frame[0], y)]
    for role in ("intermediate", "direct"):
        for group in by_role[role]:
            yield role, [(group.middle, group.frame[3]), (group.middle, top - HEIGHT / 2 - 0.05)]


def schematic(circuit: pd.DataFrame, paths: pd.DataFrame, title: str) -> Figure:
    """Draw the circuit of the data set ``movie`` from ``se_circuit`` and ``se_path_patching``."""
    circuit, paths = (table[table["dataset"] == "movie"] for table in (circuit, paths))
    tokens, groups, rank = layout(circuit, path_scores(paths, FINAL))
    right, top = tokens[-1].x, max(rank.values()) + 1.25
    extent = max([right, *(group.frame[2] for group in groups)])
    figure, axes = plt.subplots(figsize=(max(7.0, 0.64 * extent + 1.4), max(4.2, 0.78 * (top + 3.4))))
    for y in rank.values():
        axes.plot((-0.1, extent), (y, y), color="#eeeeee", linewidth=0.8, zorder=0)
    for layer, y in rank.items():
        axes.text(-0.25, y, f"layer {layer}", ha="right", va="center", fontsize=8, color="#555555")
    for role, corners in routes(tokens, groups, top):
        _arrow(axes, corners, LINES[role])
    for token in tokens:
        _token(axes, token)
    for group in groups:
        _draw_group(axes, group)
    _logits(axes, [group for group in groups if group.position == END], right, top)
    for role in [role for role in ROLES if (circuit["role"] == role).any()]:
        axes.scatter([], [], marker="s", s=80, color=COLOURS[role], edgecolor=LINES[role], label=NAMES[role])
    axes.set(xlim=(-1.2, extent + 0.4), ylim=(WORD_ROW - 0.5, top + 0.45))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), fontsize=8, ncols=2)
    axes.set_axis_off()
    source = "published heads" if (circuit["source"] == "published").all() else "heads chosen by the rule"
    axes.set_title(f"{source}; below each, what patching its path does to the logit difference", fontsize=9)
    figure.suptitle(title)
    return figure


def _arrow(axes: Axes, corners: Sequence[tuple[float, float]], colour: str) -> None:
    xs, ys = zip(*corners, strict=True)
    style = {"color": colour, "linewidth": 1.3, "zorder": 1}
    axes.plot(xs[:-1], ys[:-1], solid_capstyle="round", **style)
    axes.add_patch(
        FancyArrowPatch(corners[-2], corners[-1], arrowstyle="-|>", mutation_scale=10, shrinkA=0, shrinkB=0, **style)
    )


def _token(axes: Axes, token: Token) -> None:
    matters = token.name in (*WORDS, SUMMARY, END)
    face = "#fff3c4" if token.name in WORDS else "#ffffff" if matters else "none"
    width = 0.125 * len(token.text) + 0.26
    if matters:
        corner = token.x - width / 2, WORD_ROW - HEIGHT / 2
        style = {"facecolor": face, "edgecolor": "black", "linewidth": 0.7, "zorder": 2}
        axes.add_patch(FancyBboxPatch(corner, width, HEIGHT, boxstyle="round,pad=0,rounding_size=0.08", **style))
    colour = "black" if matters else "#8a8a8a"
    axes.text(token.x, WORD_ROW, token.text, ha="center", va="center", fontsize=9, color=colour, zorder=3)
    if token.name in (SUMMARY, END):
        axes.text(token.x, WORD_ROW - HEIGHT / 2 - 0.16, token.name, ha="center", va="center", fontsize=7, color="#555555")


def _draw_group(axes: Axes, group: Group) -> None:
    left, bottom, right, top = group.frame
    frame = {"facecolor": "white", "edgecolor": LINES[group.role], "linewidth": 1.0, "linestyle": "--", "zorder": 2}
    axes.add_patch(
        FancyBboxPatch((left, bottom), right - left, top - bottom, boxstyle="round,pad=0,rounding_size=0.12", **frame)
    )
    for layer, head, x, y, score in group.boxes:
        style = {"facecolor": COLOURS[group.role], "edgecolor": "black", "linewidth": 0.6, "zorder": 3}
        corner = x - BOX / 2, y - HEIGHT / 2
        axes.add_patch(FancyBboxPatch(corner, BOX, HEIGHT, boxstyle="round,pad=0,rounding_size=0.08", **style))
        known = score == score  # a published head whose path was not measured has no score
        axes.text(x, y + (0.1 if known else 0), f"{layer}.{head}", ha="center", va="center", fontsize=9, zorder=4)
        if known:
            axes.text(x, y - 0.13, f"{number(100 * score, 1)} %", ha="center", va="center", fontsize=6.5, zorder=4)


def _logits(axes: Axes, groups: Sequence[Group], right: float, top: float) -> None:
    left = min([group.middle for group in groups], default=right) - 0.9
    end = max([group.middle for group in groups], default=right) + 0.9
    style = {"facecolor": "white", "edgecolor": "black", "linewidth": 0.8, "zorder": 2}
    axes.add_patch(
        FancyBboxPatch((left, top - HEIGHT / 2), end - left, HEIGHT, boxstyle="round,pad=0,rounding_size=0.1", **style)
    )
    axes.text((left + end) / 2, top, "logit difference", ha="center", va="center", fontsize=9, zorder=3)
