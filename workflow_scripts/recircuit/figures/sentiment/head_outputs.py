"""What heads write: cosines of the circuit's heads, what lies on the direction, and gradients beside it (spec 3.5, item 9)."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from recircuit.experiments.sentiment.roles import ROLES
from recircuit.figures.heat_table import heat_table
from recircuit.figures.sentiment.circuit_maps import head_matrix, position_names, signed_panel
from recircuit.figures.sentiment.look import METHODS, SIGNED
from recircuit.figures.style import number, plt

SHOWN_HEADS = 24
WRITTEN = {"ov": "negative adjectives", "ov_answers": "the negative answers"}
READERS = {"ADJ": "the adjective", "VRB": "the verb", "ADJ+VRB": "both words"}
DIRECTION = "kmeans"
AT_END = {"first": "at END, along K-means of layer 1", "matched": "at END, along K-means of each layer"}
EVERYWHERE = {
    "dot": ("every position, each layer's direction", "product"),
    "flip_share": ("share of the class's change", "cosine"),
}


def short(name: str) -> str:
    """Return ``10.4`` for ``a10.h4``, and ``10.4 at SUM`` for ``a10.h4@SUM``."""
    node, _, position = name.partition("@")
    return node.removeprefix("a").replace(".h", ".") + (f" at {position}" if position else "")


def cell_order(circuit: pd.DataFrame) -> list[str]:
    """Return the circuit's cells of the data set ``movie`` by role, as the tables name them, each once."""
    rows = circuit[circuit["dataset"] == "movie"].copy()
    rows["rank"] = rows["role"].map({role: i for i, role in enumerate(ROLES)})
    rows = rows.sort_values(["rank", "layer", "head", "position"])
    return list(dict.fromkeys(f"a{row.layer}.h{row.head}@{row.position}" for row in rows.itertuples()))


def cosines(table: pd.DataFrame, circuit: pd.DataFrame, title: str) -> Figure:
    """Draw the lower triangle of the cosines, without the diagonal, heads in the order of their roles."""
    names = [name for name in cell_order(circuit) if name in set(table["a"])]
    known = {frozenset((row.a, row.b)): row.cosine for row in table.itertuples()}
    values = np.array(
        [[known[frozenset((a, b))] if j < i else np.nan for j, b in enumerate(names)] for i, a in enumerate(names)]
    )
    texts = [["" if np.isnan(value) else number(value, 2) for value in row] for row in values]
    labels = [short(name) for name in names]
    # The first row and the last column of a strictly lower triangle are empty.
    columns = [label.replace(" at ", "\n") for label in labels[:-1]]
    return heat_table(
        values[1:, :-1], texts[1:], labels[1:], columns, title=title, cmap=SIGNED, norm=Normalize(-1, 1), cell=(0.72, 0.42)
    )


def gradients(table: pd.DataFrame, title: str) -> Figure:
    """Draw the cosines of gradients with the directions, beside the spread of random vectors' cosines."""
    found = set(zip(table["kind"], table["layer"], table["reader"], strict=True))
    rows = [("log_prob", reader) for reader in READERS]
    heads = sorted({row[1:] for row in found if row[0] == "ov"}, key=lambda row: (row[0], len(row[1]), row[1]))
    rows += [(kind, reader) for kind in WRITTEN for _, reader in heads]
    columns = [method for method in METHODS if method in set(table["direction"])]
    known = table.set_index(["kind", "reader", "direction"])["cosine"]
    values = np.array([[known[*row, column] for column in columns] for row in rows])
    names = [_reader(kind, reader) for kind, reader in rows]
    texts = [[number(value, 3) for value in row] for row in values]
    limit = max(0.5, float(np.abs(values).max()))
    heading = f"{title}\na random vector's cosines have a standard deviation of {table['chance'].iloc[0]:.3f}"
    return heat_table(
        values, texts, names, [METHODS[column] for column in columns], title=heading, cmap=SIGNED,
        norm=Normalize(-limit, limit), cell=(1.7, 0.4),
    )  # fmt: skip


def _reader(kind: str, reader: str) -> str:
    if kind in WRITTEN:
        return f"what head {short(reader)} turns into {WRITTEN[kind]}"
    return f"log-probability of negative answers, at {READERS[reader]}"


def localised(table: pd.DataFrame, positions: list[str], title: str) -> Figure:
    """Draw every head at END, and the heads that write most along the direction at every named position."""
    rows = table[(table["dataset"] == "movie") & (table["direction"] == DIRECTION)]
    matched = rows[rows["alignment"] == "matched"]
    peak = matched.assign(size=matched["dot"].abs()).groupby(["layer", "head"])["size"].max()
    heads = sorted(peak.sort_values(ascending=False, kind="stable").index[:SHOWN_HEADS])
    n, m = int(rows["layer"].max()) + 1, int(rows["head"].max()) + 1
    tall = max(0.24 * n + 1.4, 2.6), max(0.21 * len(heads) + 1.8, 2.8)
    figure, grid = plt.subplots(2, 2, figsize=(min(20.0, max(11.5, 2 * (0.3 * m + 2))), sum(tall) + 0.7), height_ratios=tall)
    for axes, (alignment, name) in zip(grid[0], AT_END.items(), strict=True):
        values = head_matrix(rows[(rows["alignment"] == alignment) & (rows["position"] == "END")], "dot")
        signed_panel(figure, axes, values, name, "product", ("layer", "head"))
    for axes, (column, (name, label)) in zip(grid[1], EVERYWHERE.items(), strict=True):
        wide = matched.pivot(index=["layer", "head"], columns="position", values=column).loc[heads, positions]
        wide.index = [f"{layer}.{head}" for layer, head in heads]
        signed_panel(figure, axes, wide, name, label, ("head", "position"), turned=True)
    figure.suptitle(title)
    return figure


def head_item(file: str, tables: Mapping[str, pd.DataFrame], title: str) -> Figure:
    """Return the picture of an item."""
    if file.endswith("-gradients"):
        return gradients(tables["se_gradients"], title)
    if file.endswith("-head-cosines"):
        return cosines(tables["se_head_cosines"], tables["se_circuit"], title)
    return localised(tables["se_localised"], list(position_names(tables["se_positions"]).values()), title)
