"""Our decisions and scores beside every one that the authors' notebooks print (sequence continuation, E2 and E4)."""

from importlib.resources import files
from io import StringIO

import pandas as pd

from recircuit.core.errors import UserError
from recircuit.core.nodes import head, mlp

TOLERANCE = 0.05  # percentage points
SLACK = 1e-9
THRESHOLD = 20.0  # of the published pruning runs
RUNS = {"main": "main", "mlp11_forced": "protected"}
COLUMNS = [
    *("kind", "task", "run", "order", "node", "published_node", "ours", "published", "difference"),
    *("removed", "published_removed", "same_decision", "agrees"),
]


def published_traces(model: str) -> pd.DataFrame:
    """Return the published pruning steps of a model: task, run, order, published_node, published, published_removed."""
    rows = _published("reference_pruning_traces.csv", model)
    rows = rows.assign(run=rows["run"].map(RUNS), published_removed=rows["removed"] == 1)
    names = {"eval_order": "order", "score_pct_after_removal": "published"}
    return rows.rename(columns=names)[["task", "run", "order", "published_node", "published", "published_removed"]]


def published_singles(model: str) -> pd.DataFrame:
    """Return the published scores of a model without one node: task, run ``single``, order, published_node, published."""
    rows = _published("reference_single_ablation_from_full.csv", model)
    rows = rows.assign(run="single", order=rows.groupby("task").cumcount() + 1, published=rows["score_pct_after_ablation"])
    return rows[["task", "run", "order", "published_node", "published"]]


def _published(name: str, model: str) -> pd.DataFrame:
    text = (files("recircuit.tasks") / "data" / "sequence_continuation" / name).read_text(encoding="utf-8")
    rows = pd.read_csv(StringIO(text))
    rows = rows[rows["model"] == model]
    if rows.empty:
        raise UserError(f"'{name}' holds no values of the model '{model}'; expected gpt2-small")
    nodes = zip(rows["component"], rows["layer"], rows["head"], strict=True)
    return rows.assign(
        published_node=[
            str(head(int(layer), int(index)) if kind == "head" else mlp(int(layer))) for kind, layer, index in nodes
        ]
    )


def trace_agreement(trace: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """Compare pruning traces step by step: the n-th evaluation of each run with the n-th published one.

    ``trace`` holds rows of node_trace (of any variant and threshold; compared are the published ones), ``published`` comes
    from ``published_traces``. A step agrees when it tries the same node, decides alike, and the scores are within
    ``TOLERANCE``; one that only one side has does not. Columns: ``COLUMNS``.
    """
    ours = trace[(trace["variant"] == "published") & (trace["threshold"] == THRESHOLD)]
    ours = ours.rename(columns={"score_pct": "ours"})[["task", "run", "order", "node", "ours", "removed"]]
    ours = ours[_pairs(ours).isin(_pairs(published))]
    return _compare(ours.merge(published, on=["task", "run", "order"], how="outer"), "trace")


def single_agreement(single: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """Compare the model's scores without one node (rows of single_ablation) with ``published_singles``, node by node."""
    rows = single[single["variant"] == "published"]
    keys = zip(rows["component"], rows["layer"], rows["head"], strict=True)
    nodes = [str(head(int(layer), int(index)) if kind == "head" else mlp(int(layer))) for kind, layer, index in keys]
    ours = pd.DataFrame({"task": rows["task"].array, "node": nodes, "ours": rows["score_pct"].array})
    wide = published.merge(ours.assign(published_node=nodes), on=["task", "published_node"], how="left")
    return _compare(wide.assign(removed=None, published_removed=None), "single")


def _pairs(rows: pd.DataFrame) -> pd.Series:
    return rows["task"] + "/" + rows["run"]


def _compare(rows: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Add the columns of a comparison; what cannot be compared stays empty."""
    rows = rows.astype({"removed": "boolean", "published_removed": "boolean"})
    alike = (rows["node"] == rows["published_node"]).fillna(False).astype(bool)
    decided = (rows["removed"] == rows["published_removed"]).where(alike)
    difference = (rows["ours"] - rows["published"]).where(alike)
    near = difference.abs() <= TOLERANCE + SLACK
    agrees = near & (decided.fillna(False).astype(bool) if kind == "trace" else True)
    return rows.assign(kind=kind, difference=difference, same_decision=decided, agrees=agrees)[COLUMNS]


def summarise(agreement: pd.DataFrame) -> pd.DataFrame:
    """Return one row per kind, task and run: how many steps there are, how many agree, and where they part.

    Columns: kind, task, run, steps, agreeing, worst (largest difference in percentage points; null where nothing can be
    compared), first_off (order of the first step that does not agree; null where all do).
    """
    rows = []
    for (kind, task, run), part in agreement.groupby(["kind", "task", "run"], sort=True):
        off = part.loc[~part["agrees"], "order"]
        counts = {"steps": len(part), "agreeing": int(part["agrees"].sum()), "worst": part["difference"].abs().max()}
        rows.append({"kind": kind, "task": task, "run": run, **counts, "first_off": off.min() if len(off) else None})
    return pd.DataFrame(rows).astype({"first_off": "Int64"})
