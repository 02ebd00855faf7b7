"""Text with a background colour per token, as a picture and as a page: red is negative, white 0, blue positive (spec 3.10).

Letters are all of one width, so that where each token stands is counted and not measured.
"""

import html
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize, to_hex
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font

from recircuit.core.files import atomic, passport_in_page
from recircuit.figures.sentiment.look import NEGATIVE, POSITIVE
from recircuit.figures.style import number, plt

SHADES = (NEGATIVE, "#f4a582", "#ffffff", "#92c5de", POSITIVE)  # RdBu with a white middle
COLOURS = LinearSegmentedColormap.from_list("sentiment", SHADES)
FONT, SIZE = "DejaVu Sans Mono", 8.5
WIDTH = 0.60205  # of a letter, in units of the font's size
LINE = 1.75  # from line to line, likewise
COLUMNS, LEAST = 92, 60  # letters of text on a line, or as few as the longest text has
GAP = 3  # letters between the texts of a passage
MISSING = "\ufffd"
_PLAIN = {"va": "center", "parse_math": False}  # two dollar signs in a token are no formula
_LETTERS = _PLAIN | {"fontsize": SIZE, "family": FONT}


class Token(NamedTuple):
    """A token's text with its spaces, the value that is its colour, and what the page says when it is pointed at."""

    text: str
    value: float
    note: str = ""


@dataclass(frozen=True)
class Passage:
    """One or several short texts with a label in front; ``section`` is the heading above the first passage that has it."""

    label: str
    texts: Sequence[Sequence[Token]]
    section: str = ""


class Placed(NamedTuple):
    """A token's place: ``line`` from above, ``column`` of its first letter, and what is written."""

    line: int
    column: int
    shown: str
    token: Token


def limit_of(passages: Sequence[Passage]) -> float:
    """Return the largest size of a value: colours go from minus that to it."""
    values = [abs(token.value) for passage in passages for text in passage.texts for token in text]
    return max(values, default=0.0) or 1.0


def visible(text: str) -> str:
    """Return what is written for a token: signs in place of line ends, of other controls and of parts of a character."""
    shown = "".join("↵" if letter == "\n" else letter if letter.isprintable() else "·" for letter in text)
    return shown or "·"


def place(texts: Sequence[Sequence[Token]], columns: int = COLUMNS) -> list[Placed]:
    """Return the places of all tokens of a passage, in reading order, on lines of at most ``columns`` letters.

    A token that does not fit goes to the next line; a text begins on the line of the one before it if all of it fits there. A
    token longer than a line has one of its own.
    """
    found, line, column = [], 0, 0
    for text in texts:
        shown = [visible(token.text) for token in text]
        if column and column + GAP + sum(map(len, shown)) > columns:
            line, column = line + 1, 0
        column += GAP if column else 0
        for own, token in zip(shown, text, strict=True):
            if column and column + len(own) > columns:
                line, column = line + 1, 0
            found.append(Placed(line, column, own, token))
            column += len(own)
    return found


def _colour(value: float, limit: float) -> tuple[tuple, str]:
    """Return a value's colour and that of letters on it."""
    colour = COLOURS(Normalize(-limit, limit)(value))
    return colour, "white" if np.dot(colour[:3], (0.299, 0.587, 0.114)) < 0.5 else "black"


# ---- a picture ------------------------------------------------------------------------------------------------------


def draw(passages: Sequence[Passage], title: str, *, label: str, note: str = "", columns: int = COLUMNS) -> Figure:
    """Draw passages one below the other, with a bar that says what colours mean; ``label`` is the bar's, ``note`` below it."""
    limit, gutter = limit_of(passages), max((len(p.label) for p in passages), default=0) + 2
    columns = min(columns, max([LEAST, *map(_length, passages)]))
    placed = [place(passage.texts, columns) for passage in passages]
    columns = max([columns, *(p.column + len(p.shown) for places in placed for p in places)])
    tops, end = _tops(passages, placed)
    wide = gutter + columns
    heading, remark = textwrap.wrap(title, int(0.8 * wide)), textwrap.wrap(note, int(1.2 * wide))
    above, below = 1.2 * len(heading) + 0.8, 3.2 + 0.9 * len(remark)
    x, y = WIDTH * SIZE / 72, LINE * SIZE / 72  # inches of a letter and of a line
    width, height = (wide + 4) * x, (end + above + below) * y
    figure = plt.figure(figsize=(width, height))
    figure.set_layout_engine("none")  # said now, not at its making: else the second saving would go back to the style's
    axes = figure.add_axes((2 * x / width, below * y / height, wide * x / width, end * y / height))
    axes.set(xlim=(-gutter, columns), ylim=(end, 0))
    axes.set_axis_off()
    for before, passage, top in zip([None, *passages], passages, tops, strict=False):
        if before is None or passage.section != before.section:
            axes.text(-gutter, top - 0.5, passage.section, fontsize=9, fontweight="bold", **_PLAIN)
        axes.text(-2, top + 0.5, passage.label, ha="right", color="0.35", **_LETTERS)
    _draw_tokens(axes, [p for places in placed for p in places], np.repeat(tops, [len(places) for places in placed]), limit)
    figure.text(0.5, 1 - 0.4 * y / height, "\n".join(heading), ha="center", fontsize=11, **_PLAIN | {"va": "top"})
    figure.text(2 * x / width, 0.2 * y / height, "\n".join(remark), fontsize=7.5, color="0.3", **_PLAIN | {"va": "bottom"})
    bar = figure.add_axes((0.5 - 14 * x / width, (0.9 * len(remark) + 1.9) * y / height, 28 * x / width, 0.5 * y / height))
    mappable = plt.cm.ScalarMappable(Normalize(-limit, limit), COLOURS)
    figure.colorbar(mappable, cax=bar, orientation="horizontal").set_label(label, fontsize=8, labelpad=1)
    bar.tick_params(labelsize=7, length=2)
    return figure


def _length(passage: Passage) -> int:
    """Return how many letters a passage has on one line."""
    return sum(len(visible(token.text)) for text in passage.texts for token in text) + GAP * (len(passage.texts) - 1)


def _tops(passages: Sequence[Passage], placed: Sequence[Sequence[Placed]]) -> tuple[list[float], float]:
    """Return the line on which each passage begins, a little apart from the one before, and the last line's end."""
    tops, top, section = [], 0.0, ""
    for passage, places in zip(passages, placed, strict=True):
        top += 1.3 if passage.section != section else 0.0
        section = passage.section
        tops.append(top)
        lines = max((p.line for p in places), default=0) + 1
        top += lines + (0.35 if lines > 1 else 0.15)
    return tops, top


def _draw_tokens(axes: Axes, tokens: Sequence[Placed], tops: Sequence[float], limit: float) -> None:
    """Draw the boxes of all tokens as one collection, and a text in each."""
    boxes, colours = [], []
    for token, top in zip(tokens, tops, strict=True):
        colour, letters = _colour(token.token.value, limit)
        x, y = token.column, top + token.line
        boxes.append([(x, y + 0.06), (x, y + 0.94), (x + len(token.shown), y + 0.94), (x + len(token.shown), y + 0.06)])
        colours.append(colour)
        bare = token.shown.lstrip(" ")
        axes.text(x + len(token.shown) - len(bare), y + 0.5, _drawable(bare), color=letters, **_LETTERS)
    axes.add_collection(PolyCollection(boxes, facecolors=colours, edgecolors="0.85", linewidths=0.3), autolim=False)


def _drawable(text: str) -> str:
    """Return a text with a sign in place of letters that the font does not have."""
    return "".join(letter if ord(letter) in _letters() else MISSING for letter in text)


@cache
def _letters() -> frozenset[int]:
    return frozenset(get_font(findfont(FONT)).get_charmap())


# ---- a page ---------------------------------------------------------------------------------------------------------

_STYLE = f"""
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; padding: 0 1em; max-width: 70em; color: #222; }}
h1 {{ font-size: 1.25em; }} h2 {{ font-size: 1em; margin: 1.5em 0 .5em; }}
.p {{ display: flex; gap: 1em; margin: .5em 0; }} .l {{ flex: 0 0 11em; text-align: right; color: #666; }}
.x {{ font-family: ui-monospace, monospace; line-height: 2; white-space: pre-wrap; overflow-wrap: anywhere; }}
.x > span {{ margin-right: 2em; }} .t {{ position: relative; padding: .15em 0; border-radius: .15em; cursor: default; }}
.t:hover {{ outline: 1px solid #222; }}
.t:hover::after {{ content: attr(data-v); position: absolute; left: 0; top: 1.7em; z-index: 1; padding: .2em .5em;
background: #222; color: #fff; border-radius: .2em; white-space: pre; line-height: 1.4; font-size: 13px; }}
.bar {{ display: inline-block; width: 14em; height: .8em; margin: 0 .5em; border: 1px solid #bbb;
background: linear-gradient(to right, {", ".join(SHADES)}); }}
"""


def page(passages: Sequence[Passage], title: str, *, label: str, note: str = "", passport: Mapping | None = None) -> str:
    """Return a page with the passages that needs no other file; pointing at a token shows its note. Its passport is inside."""
    limit = limit_of(passages)
    body = "\n".join(_passages(passages, limit))
    scale = f'<p>{html.escape(label)}: {number(-limit, 2)} <span class="bar"></span> {number(limit, 2)}</p>'
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">{passport_in_page(passport or {})}'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>\n"
        f"<h1>{html.escape(title)}</h1>\n<p>{html.escape(note)}</p>\n{scale}\n{body}\n</body></html>\n"
    )


def _passages(passages: Sequence[Passage], limit: float) -> Iterator[str]:
    section = ""
    for passage in passages:
        if passage.section != section:
            section = passage.section
            yield f"<h2>{html.escape(section)}</h2>"
        texts = "".join(f"<span>{''.join(_span(token, limit) for token in text)}</span>" for text in passage.texts)
        yield f'<div class="p"><div class="l">{html.escape(passage.label)}</div><div class="x">{texts}</div></div>'


def _span(token: Token, limit: float) -> str:
    colour, letters = _colour(token.value, limit)
    style = f"background:{to_hex(colour)};color:{letters}"
    note = html.escape(token.note or number(token.value, 3))
    return f'<span class="t" style="{style}" data-v="{note}">{html.escape(visible(token.text))}</span>'


def save_page(text: str, path: str) -> None:
    """Write a page."""
    with atomic(str(path)) as part:
        part.write_text(text, encoding="utf-8")
