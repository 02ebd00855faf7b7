"""What the ablations on reviews are called, and in which order they are shown; draws become one row (spec 3.8)."""

import pandas as pd

from recircuit.figures.sentiment.look import METHODS

KEYS = ["condition", "mask", "direction", "alignment", "frozen"]
SCAFFOLDS = {
    "suffix": "asked for a label",
    "suffix_bos": "asked for a label, after the token that begins a text",
    "continuation": "goes on with an adjective (substitute)",
}
COLOURS = {"suffix": "#2c6fbb", "suffix_bos": "#7fb2de", "continuation": "#e08214"}
MASKS = {
    "commas": "at commas", "all": "at all tokens", "review": "in the review", "periods": "at periods",
    "before commas": "at tokens before commas", "random tokens": "at as many other tokens", "random words": "at as many words",
}  # fmt: skip
MEANS = {
    "mean": "mean stream at commas", "mean of running text": "mean of running text at commas",
    "mean of the other class": "the other class's mean at commas", "inverse": "mean, own projection kept, at commas",
    "inverse, added": "mean, own projection added, at commas",
}  # fmt: skip
MEASURES = ["mean_ld", "relative", "accuracy", "accuracy_raw", "accuracy_centred", "lost"]
ENDS = {"mean_ld": ("ld_lo", "ld_hi"), "relative": ("relative_lo", "relative_hi"), "accuracy": ("ci_lo", "ci_hi")}
_PLACES = {name: i for i, name in enumerate(MASKS)}
_KINDS = {name: i for i, name in enumerate(("none", "direction", "random direction", *MEANS))}
_METHODS = {name: i for i, name in enumerate(("none", "das", "kmeans", "mean_diff", "random"))}


def label(row) -> str:
    """Return how a condition is called; ``row`` is a row of ``se_ablation_summary``."""
    if row["condition"] == "none":
        return "nothing ablated"
    frozen = ", attention frozen" if row["frozen"] else ""
    if row["condition"] in MEANS:
        return MEANS[row["condition"]] + frozen
    name = "random direction" if row["condition"] == "random direction" else METHODS[row["direction"]]
    return f"{name} {MASKS[row['mask']]}" + (", aligned" if row["alignment"] == "aligned" else "") + frozen


def collapsed(summary: pd.DataFrame, scaffold: str, subset: str = "all") -> pd.DataFrame:
    """Return a row per condition of a scaffold, in order, with its ``label`` and its number of ``draws``.

    Of several draws the mean is shown, and their range in place of the interval.
    """
    own = summary[(summary["scaffold"] == scaffold) & (summary["subset"] == subset)]
    rows = []
    for _, part in own.groupby(KEYS, sort=False):
        row = part.iloc[0].copy()
        if len(part) > 1:
            row[MEASURES] = part[MEASURES].astype(float).mean()
            for name, (low, high) in ENDS.items():
                row[low], row[high] = part[name].min(), part[name].max()
        more = f" ({len(part)} draws)" if len(part) > 1 else ""
        rows.append({**row, "draws": len(part), "label": label(row) + more, "order": _order(row)})
    return pd.DataFrame(rows).sort_values("order", ignore_index=True) if rows else pd.DataFrame(columns=["label", *own])


def _order(row) -> tuple:
    place = _PLACES.get(row["mask"], -1)
    return _KINDS[row["condition"]], _METHODS[row["direction"]], place, row["alignment"] == "aligned", row["frozen"]


def scaffolds(summary: pd.DataFrame) -> list[str]:
    """Return the scaffolds of which reviews were ablated."""
    return [name for name in SCAFFOLDS if (summary["scaffold"] == name).any()]
