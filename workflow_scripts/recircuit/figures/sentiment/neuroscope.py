"""Figures 1 and 4 and their appendix: texts in colour, from the table ``se_neuroscope`` (spec 3.10)."""

from collections.abc import Sequence

import pandas as pd

from recircuit.figures.sentiment.coloured_text import Passage, Token
from recircuit.figures.sentiment.look import METHODS
from recircuit.figures.style import number

CLASSES = {
    "proper_nouns": "proper nouns",
    "adjectives": "adjectives",
    "adverbs": "adverbs",
    "nouns": "nouns",
    "verbs": "verbs",
    "medical": "medical words",
}
SHOWN = ("kmeans", "mean_diff")
PUBLISHED = (1, 4, 7, 10)  # indices of Figure 4, for twelve layers
NAMES = {"english": "English prose", "french": "French prose", "negation": "negations"}


def panel_of(table: pd.DataFrame, name: str) -> tuple[str, bool]:
    """Return the panel of a text, or that of the reviews in its place, and whether it is the text itself."""
    there = (table["panel"] == name).any()
    return (name, True) if there else (f"{name}_reviews", False)


def shown_indices(table: pd.DataFrame, panel: str) -> list[int]:
    """Return the indices of Figure 4: 1, 4, 7 and 10 of twelve layers, as deep in more; of fewer layers all from 1 on."""
    last = int(table.loc[table["panel"] == panel, "layer"].max())
    if last < 12:
        return [*range(1, last + 1)]
    return [1, *(round(i * last / 12) for i in PUBLISHED[1:])]


def passage(rows: pd.DataFrame, value: str, label: str, section: str = "") -> Passage:
    """Return the texts of one panel, index and vector in colour; ``value`` is the column ``cosine`` or ``centred``."""
    texts = []
    for _, own in rows.sort_values(["window", "token_idx"]).groupby("window"):
        texts.append([Token(row.token, getattr(row, value), _note(row)) for row in own.itertuples()])
    return Passage(label, texts, section)


def _note(row) -> str:
    return (
        f"cosine {number(row.cosine, 3)} · centred {number(row.centred, 3)} · projection {number(row.projection, 2)} · "
        f"index {row.layer}"
    )


def _chosen(table: pd.DataFrame, panel: str, layer: int, method: str, *, matched: bool) -> pd.DataFrame:
    same = (table["panel"] == panel) & (table["layer"] == layer) & (table["direction"] == method)
    return table[same & (table["layer_matched"] == matched)]


def words(table: pd.DataFrame) -> tuple[list[Passage], str]:
    """Figure 1: windows around words by their class, and French prose; k-means as published, beside it the mean difference."""
    found, sources = [], set(table.loc[table["panel"].isin(CLASSES), "source"])
    french, itself = panel_of(table, "french")
    for method in SHOWN:
        section = f"direction of layer 1: {METHODS[method]}"
        for panel, label in CLASSES.items():
            rows = _chosen(table, panel, 1, method, matched=False)
            if len(rows):
                found.append(passage(rows, "centred", label, section))
        layer = int(table.loc[table["panel"] == french, "layer"].max()) if (table["panel"] == french).any() else None
        if layer is not None:
            rows = _chosen(table, french, layer, method, matched=False)
            found.append(passage(rows, "centred", f"French, index {layer}", section))
    cited = "the windows that the paper cites" if sources == {"cited"} else "own windows: the two lowest and highest words"
    absent = [label for panel, label in CLASSES.items() if not (table["panel"] == panel).any()]
    none = f"There are no {', '.join(absent)} in the text. " if absent else ""
    return found, f"Words: {cited}, index 1. {none}" + _instead([] if itself else ["French prose"])


def _instead(missing: Sequence[str]) -> str:
    if not missing:
        return ""
    return f"This model's vocabulary lacks words of {' and '.join(missing)}: reviews of the toy sets are shown instead."


def negations(table: pd.DataFrame, *, everywhere: bool) -> tuple[list[Passage], str]:
    """Figure 4 and its appendix: the text with three negations at some indices or at all, published and matched vectors."""
    panel, itself = panel_of(table, "negation")
    layers = sorted(set(table.loc[table["panel"] == panel, "layer"])) if everywhere else shown_indices(table, panel)
    found = []
    for method, matched, section in (
        ("kmeans", False, "direction of layer 1 at every index (published): K-means"),
        ("kmeans", True, "direction of the index's own layer: K-means"),
        ("mean_diff", True, "direction of the index's own layer: mean diff"),
    ):
        for layer in layers:
            rows = _chosen(table, panel, layer, method, matched=matched)
            if len(rows):
                found.append(passage(rows, "cosine", f"i = {layer}", section))
    return found, "" if itself else "This model's vocabulary lacks words of the text with negations: reviews are shown instead."


def long_texts(table: pd.DataFrame) -> tuple[list[Passage], str]:
    """Appendix: English and French prose at one index, with published and matched vectors."""
    found, missing = [], []
    for name in ("english", "french"):
        panel, itself = panel_of(table, name)
        missing += [] if itself else [NAMES[name]]
        for layer in sorted(set(table.loc[table["panel"] == panel, "layer"])):
            for method, matched in (("kmeans", False), ("kmeans", True), ("mean_diff", True)):
                kind = f"{METHODS[method]} of layer {layer if matched else 1}"
                rows = _chosen(table, panel, layer, method, matched=matched)
                section = f"{NAMES[name] if itself else 'reviews in place of ' + NAMES[name]}, index {layer}"
                if len(rows):
                    found.append(passage(rows, "centred", kind, section))
    return found, _instead(missing)


ITEMS = {
    "f1-words-in-colour": (words, "cosine less its mean over the panel"),
    "f4-negation": (lambda table: negations(table, everywhere=False), "cosine"),
    "a70-negation-layers": (lambda table: negations(table, everywhere=True), "cosine"),
    "a72-long-texts": (long_texts, "cosine less its mean over the text"),
}


def text_item(file: str, table: pd.DataFrame) -> tuple[list[Passage], dict[str, str]]:
    """Return the passages of an item and what its picture and its page say of their colours."""
    make, label = ITEMS[file]
    passages, note = make(table)
    return passages, {"label": label, "note": note.strip()}
