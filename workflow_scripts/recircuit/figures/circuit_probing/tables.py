"""Causal tables of Exp. 1 and 2, the sizes of circuits, and bars of what two circuits share."""

from collections.abc import Callable, Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from recircuit.figures.circuit_probing.look import COMPONENTS, VARIABLES
from recircuit.figures.circuit_probing.probes import ORDER
from recircuit.figures.heat_table import heat_table
from recircuit.figures.style import number

Frames = Mapping[str, pd.DataFrame]
Columns = dict[str, pd.Series]
PARTS = {"model 1 only": "cornflowerblue", "both": "plum", "model 2 only": "lightcoral", "neither": "grey"}
WIDE = {"ablation": 1.5, "embeddings": 1.6, "amnesic": 1.6, "alignment": 1.5, "sizes": 1.5}
INDEX = ["task", "variable", "component"]


def _last(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["epoch"] == table["epoch"].max()]


def _mean(table: pd.DataFrame, column: str) -> pd.Series:
    return table.groupby(INDEX)[column].mean()


def ablation(tables: Frames) -> Columns:
    """T1: accuracy without the circuit, on its own and on the other task, and controls."""
    table = _last(tables["cp_ablations"])
    table, own = table[table["condition"] != "vanilla"], table["task"] == table["eval_task"]
    columns: Columns = {}
    for matrices in ("all", "c_attn", "c_fc", "c_proj"):
        for other in (False, True):
            rows = table[(table["condition"] == "circuit") & (table["matrices"] == matrices) & (own != other)]
            name = {"all": "circuit"}.get(matrices, f"its {matrices}") + "\nablated" + (", other task" if other else "")
            columns |= {name: _mean(rows, "accuracy")} if len(rows) else {}
    for condition, name in (("random", "as many random\ncolumns ablated"), ("kept", "all but the\ncircuit ablated")):
        columns[name] = _mean(table[(table["condition"] == condition) & own & (table["matrices"] == "all")], "accuracy")
    return columns


def embeddings(tables: Frames) -> Columns:
    """T2: what the model answers when its stream is moved so that a probe reads another value."""
    table, columns = _last(tables["cp_embeddings"]), {}
    for kind, label in (("linear", "linear"), ("nonlinear", "non-linear")):
        rows = table[table["kind"] == kind]
        for column, what in (("success", "probe reads it"), ("predicts_cf", "new answer"), ("predicts_original", "old answer")):
            columns[f"{label}:\n{what}"] = _mean(rows, column)
    return columns


def amnesic(tables: Frames) -> Columns:
    """T3: accuracy of a probe and of the model when LEACE has erased a variable."""
    table = _last(tables["cp_amnesic"])
    table = table[table["split"] == "test"]
    leace, own = table["method"] == "leace", table["task"] == table["eval_task"]
    columns = {
        "probe\nbefore": _mean(table[leace & own], "probe_before"),
        "probe\nafter": _mean(table[leace & own], "probe_after"),
        "model\nafter": _mean(table[leace & own], "accuracy"),
    }
    if (~own).any():
        columns["model after,\nother task"] = _mean(table[leace & ~own], "accuracy")
    columns["model after\nLEACE in float64"] = _mean(table[(table["method"] == "leace_exact") & own], "accuracy")
    columns["model without as many\nrandom directions"] = _mean(table[(table["method"] == "random") & own], "accuracy")
    columns["directions\nerased"] = _mean(table[leace & own], "rank")
    return columns


def alignment(tables: Frames) -> Columns:
    """T4: interchange-intervention accuracy of boundless DAS."""
    table = _last(tables["cp_alignments"])
    last = table[table["step"] == table.groupby(INDEX)["step"].transform("max")]
    return {"interchange\naccuracy": _mean(last, "iia"), "boundary (share\nof 128)": _mean(last, "boundary")}


def sizes(tables: Frames) -> Columns:
    """T5: circuit sizes, read-outs and losses."""
    table = _last(tables["cp_runs"])
    names = {
        "kept_fraction": "weights\nkept",
        "knn_test": "nearest neighbour,\ncircuit",
        "full_knn_test": "nearest neighbour,\nfull block",
        "knn_mean": "circuit, 20\nprototypes",
        "test_loss": "test loss\n(nats)",
    }
    return {name: _mean(table, column) for column, name in names.items()}


KINDS: dict[str, Callable[[Frames], Columns]] = {
    "ablation": ablation, "embeddings": embeddings, "amnesic": amnesic, "alignment": alignment, "sizes": sizes,
}  # fmt: skip
COUNTS = ("directions\nerased", "test loss\n(nats)")  # no shares of one: written, not coloured


def causal(kind: str, tables: Frames, title: str) -> Figure:
    """Draw one of the causal tables: a row per task, component and variable."""
    found = pd.DataFrame(KINDS[kind](tables))
    rows = sorted(found.index, key=lambda key: (key[0], list(COMPONENTS).index(key[2]), ORDER.index(key[1])))
    found = found.loc[rows]
    if kind == "embeddings" and "other" in found.index.get_level_values("variable"):
        found.loc[found.index.get_level_values("variable") == "other"] = np.nan  # its exchange has no meaning (spec 7.10)
    texts = [
        ["n/a" if v != v else number(v, 0 if c == COUNTS[0] else 3) for c, v in row.items()] for _, row in found.iterrows()
    ]
    shown = found.to_numpy(copy=True)
    shown[:, [c in COUNTS for c in found.columns]] = np.nan
    labels = [(f"task {task}, " if task else "") + f"{COMPONENTS[c]}, {VARIABLES[v]}" for task, v, c in rows]
    rules = [i for i in range(len(rows) - 1) if rows[i][::2] != rows[i + 1][::2]]
    return heat_table(
        shown,
        texts,
        labels,
        list(found.columns),
        title=title,
        cmap="Blues",
        norm=Normalize(0, 1.25),
        cell=(1.5, 0.33),
        rules=rules,
    )


def overlaps(table: pd.DataFrame, level: str, names: tuple[str, str], title: str) -> Figure:
    """E2-F5, F6 and E4-F4, F5: how the columns of each matrix or head divide between two circuits."""
    rows = table[table["level"] == level]
    labels = [{"c_attn": "q, k, v", "c_proj": "output"}.get(name, f"head {name}") for name in rows["name"]]
    total = rows["n_total"].to_numpy()
    both = rows["n_both"].to_numpy()
    counts = [rows["n_1"].to_numpy() - both, both, rows["n_2"].to_numpy() - both]
    counts.append(total - sum(counts))
    figure, axes = plt.subplots(figsize=(8.4, 0.62 * len(rows) + 1.9))
    left = np.zeros(len(rows))
    legend = (f"{names[0]} only", "both", f"{names[1]} only", "neither")
    for part, name, colour in zip(counts, legend, PARTS.values(), strict=True):
        share = part / total
        axes.barh(range(len(rows)), share, left=left, color=colour, label=name, height=0.7)
        for i, (x, width) in enumerate(zip(left, share, strict=True)):
            if width > 0.035:
                axes.text(x + width / 2, i, str(part[i]), ha="center", va="center", fontsize=8)
        left += share
    notes = [f"IoU {number(r.iou, 2)} (chance {number(r.expected_iou, 2)})" for r in rows.itertuples()]
    for i, note in enumerate(notes):
        axes.text(1.02, i, note, va="center", fontsize=8)
    axes.set_yticks(range(len(rows)), labels)
    axes.set(xlim=(0, 1.32), xlabel="share of the columns")
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1.0])
    axes.invert_yaxis()
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9)
    figure.suptitle(title, fontsize=11)
    return figure
