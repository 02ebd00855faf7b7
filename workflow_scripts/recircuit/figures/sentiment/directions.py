"""Figure 2a and what stands beside it: cosines of directions by method, layer and training set."""

import numpy as np
import pandas as pd
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from recircuit.figures.heat_table import heat_table
from recircuit.figures.sentiment.look import METHODS, SETS, SIGNED
from recircuit.figures.style import number
from recircuit.tasks.corpus import word_data

COMPARED = ("das", "kmeans", "logistic_regression", "mean_diff", "pca", "random")  # the paper's rows and columns
BOTH = Normalize(-1, 1)
TITLE = 4.2  # inches that a title of one line takes


def cosine_item(file: str, cosines: pd.DataFrame, title: str, *, published: bool) -> Figure:
    """Return one of the tables of cosines; ``published``: the released vectors are of this model."""
    if file == "f2a-cosines":
        return methods(cosines, title)
    if file == "x2-das-layers":
        return layers(cosines, title, published=published)
    return training_sets(cosines, title)


def shown_layers(cosines: pd.DataFrame) -> list[int]:
    """Return the embedding, the first layer's output and the middle: the first two are what "first layer" may mean."""
    return sorted({0, 1, int(cosines["layer_a"].max()) // 2})


def methods(cosines: pd.DataFrame, title: str) -> Figure:
    """Figure 2a: each pair of methods at one layer, on the paper's training reviews."""
    rows = _reviews(cosines[cosines["layer_a"] == cosines["layer_b"]])
    values, labels = [], []
    for layer in shown_layers(rows):
        wide = rows[rows["layer_a"] == layer].pivot(index="method_a", columns="method_b", values="cosine")
        values.append(wide.reindex(index=COMPARED, columns=COMPARED).to_numpy())
        labels += [f"layer {layer}: {METHODS[name]}" for name in COMPARED]
    rules = range(len(COMPARED) - 1, len(labels) - 1, len(COMPARED))
    return _table(np.concatenate(values), labels, [METHODS[name] for name in COMPARED], title, rules=list(rules), percent=True)


def _reviews(cosines: pd.DataFrame) -> pd.DataFrame:
    kept = cosines["set_a"] == "movie"
    for column, value in (("set_b", "movie"), ("variant_a", "paper"), ("variant_b", "paper")):
        kept &= cosines[column] == value
    return cosines[kept]


def layers(cosines: pd.DataFrame, title: str, *, published: bool) -> Figure:
    """Ours: DAS at each layer and at every other one, ours below the diagonal, the released vectors above it."""
    rows = _reviews(cosines)
    rows = rows[(rows["method_a"] == "das") & (rows["method_b"] == "das")]
    values = rows.pivot(index="layer_a", columns="layer_b", values="cosine").sort_index().sort_index(axis=1).to_numpy(copy=True)
    n = len(values)
    if published:
        above = np.triu_indices(n, 1)
        values[above] = released(n)[above]
    names = [str(layer) for layer in range(n)]
    labels = {"row_label": "layer (below the diagonal: ours)", "column_label": "layer (above the diagonal: released)"}
    labels = labels if published else dict.fromkeys(labels, "layer")
    return _table(values, names, names, title, cell=(max(0.62, TITLE / n), 0.36), **labels)


def released(n: int) -> np.ndarray:
    """Return the cosines of the first n released vectors, each turned so that positive reviews are on its positive side."""
    data = word_data("sentiment/das_released_cosines")
    signs = np.array(data["signs"][:n])
    return np.array(data["cosines"])[:n, :n] * signs[:, None] * signs


def training_sets(cosines: pd.DataFrame, title: str) -> Figure:
    """Ours: directions of one method fitted to different prompts, at the embedding and in the middle."""
    rows = cosines[(cosines["layer_a"] == cosines["layer_b"]) & (cosines["method_a"] == cosines["method_b"])]
    rows = rows[~_spare(rows, "a") & ~_spare(rows, "b")]
    shown, names = shown_layers(rows)[::2], [name for name in SETS if name in set(rows["set_a"])]
    values, labels = [], []
    for method in ("das", "logistic_regression", "mean_diff"):
        here = rows[rows["method_a"] == method]
        blocks = [
            here[here["layer_a"] == layer].pivot(index="set_a", columns="set_b", values="cosine").reindex(names, columns=names)
            for layer in shown
        ]
        values.append(np.concatenate([block.to_numpy() for block in blocks], 1))
        labels += [f"{METHODS[method]}: {SETS[name]}" for name in names]
    columns = [f"layer {layer}:\n{SETS[name]}" for layer in shown for name in names]
    rules = list(range(len(names) - 1, len(labels) - 1, len(names)))
    return _table(np.concatenate(values), labels, columns, title, cell=(0.98, 0.36), rules=rules)


def _spare(rows: pd.DataFrame, side: str) -> pd.Series:
    return (rows[f"set_{side}"] == "movie") & (rows[f"variant_{side}"] != "paper")


def _table(values: np.ndarray, rows: list[str], columns: list[str], title: str, *, percent: bool = False, **choices) -> Figure:
    texts = [
        ["–" if v != v else f"{number(100 * v, 0)} %" if percent else number(v, 2) for v in line] for line in values.tolist()
    ]
    choices = {"cell": (1.0, 0.36)} | choices
    return heat_table(values, texts, rows, columns, title=title, cmap=SIGNED, norm=BOTH, **choices)
