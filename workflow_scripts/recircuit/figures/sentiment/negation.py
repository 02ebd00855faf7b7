"""How far negated words move along the directions, as tables (spec 3.11)."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from recircuit.core.stats import stream, wilson
from recircuit.figures.heat_table import heat_table
from recircuit.figures.sentiment.look import METHODS
from recircuit.figures.style import number, plt

ORDER = ("kmeans", "pca", "mean_diff", "logistic_regression", "das")
DRAWS = 1000  # of bootstrap intervals over sentences
COLUMNS = [
    "flipped [95 %]",
    "mean change",
    "mean z",
    "mean flip size [95 %]",
    "median flip size [95 %]",
    "more than not negated [95 %]",
    "n",
]
WHITE = Normalize(0, 10)


def interval(values: np.ndarray, statistic: Callable, *labels: str) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a statistic (mean or median, with an ``axis``) over sentences."""
    chosen = stream(0, "negation", *labels).integers(len(values), size=(DRAWS, len(values)))
    low, high = np.quantile(statistic(values[chosen], axis=1), [0.025, 0.975])
    return float(low), float(high)


def _with_interval(values: np.ndarray, statistic: Callable, *labels: str) -> str:
    low, high = interval(values, statistic, *labels)
    return f"{number(statistic(values), 2)} [{number(low, 2)}, {number(high, 2)}]"


def _share(hits: int, n: int) -> str:
    low, high = (number(100 * end, 0) for end in wilson(hits, n))
    return f"{number(100 * hits / n, 0)} % [{low}, {high}]"


def summary(rows: pd.DataFrame, plain: pd.DataFrame | None, *labels: str) -> list[str]:
    """Return a line of the table for one direction: share of flip sizes above 0, means, median, and number of sentences.

    ``plain`` are the same words without a negation: the last share is that of words which flip more when negated.
    """
    flips, more = rows["flip_size"].to_numpy(), "–"
    if plain is not None:
        both = rows.merge(plain, on="item", suffixes=("", "_plain"))
        more = _share(int((both["flip_size"] > both["flip_size_plain"]).sum()), len(both)) if len(both) else "–"
    return [
        _share(int((flips > 0).sum()), len(rows)),
        number(rows["raw"].mean(), 3),
        number(rows["z"].mean(), 2),
        _with_interval(flips, np.mean, "mean", *labels),
        _with_interval(flips, np.median, "median", *labels),
        more,
        str(len(rows)),
    ]


def nothing(title: str) -> Figure:
    """Say that there is no sentence."""
    figure, axes = plt.subplots(figsize=(8, 1.6))
    axes.set_axis_off()
    axes.text(0.5, 0.5, "No sentence can be encoded in this model's vocabulary.", ha="center", va="center")
    figure.suptitle(title, fontsize=11)
    return figure


def statistics(table: pd.DataFrame, title: str) -> Figure:
    """Appendix: statistics by direction, of all sentences, without any that probe "short", and of words not negated."""
    negated, plain = table[table["negated"]], table[~table["negated"]]
    names, texts, rules = [], [], []
    strong = [("without “short”", negated[~negated["weak"]])] if negated["weak"].any() else []
    for label, part in (("all", negated), *strong, ("not negated", plain)):
        for method in ORDER:
            rows = part[part["method"] == method]
            if len(rows):
                own = plain[plain["method"] == method]
                names.append(f"{METHODS[method]}, {label}")
                texts.append(summary(rows, None if part is plain else own, label, method))
        rules.append(len(names) - 1)
    values = np.zeros((len(names), len(COLUMNS)))
    return heat_table(values, texts, names, COLUMNS, title=title, cmap="Greys", norm=WHITE, cell=(1.9, 0.36), rules=rules[:-1])


def sentences(table: pd.DataFrame, title: str) -> Figure:
    """Ours: each word's flip size by direction, negated and not."""
    methods = [method for method in ORDER if (table["method"] == method).any()]
    items = table.drop_duplicates("item").sort_values("item")
    wide = table.pivot(index="item", columns=["method", "negated"], values="flip_size")
    columns = [(method, negated) for method in methods for negated in (True, False) if (method, negated) in wide]
    values = wide[columns].to_numpy(float)
    texts = [["" if value != value else number(value, 2) for value in line] for line in values]
    names = [f"{METHODS[method]}\n{'negated' if negated else 'not'}" for method, negated in columns]
    rows = [f"{row.item}: {row.word}" for row in items.itertuples()]
    return heat_table(values, texts, rows, names, title=title, cmap="PuOr", norm=Normalize(-1, 1), cell=(0.95, 0.3))


def negation_item(file: str, table: pd.DataFrame, title: str) -> Figure:
    """Return one of the two tables; both say so when there is no sentence."""
    if not len(table):
        return nothing(title)
    return {"a71-negation-table": statistics, "x70-negation-sentences": sentences}[file](table, title)
