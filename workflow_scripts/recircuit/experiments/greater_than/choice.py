"""The circuit's nodes: the published ones of a model that has them, else chosen from the stages of path patching by a rule.

The rule: a sender belongs to the circuit if patching it costs at least ``share`` of the baseline probability difference in some
stage and the cost is more than SIGMAS standard errors from nothing. Nodes at the end come from the stage ``logits`` and, going
down, from the stages of the MLPs chosen so far; nodes at YY from the values and keys of the heads chosen.
"""

from collections.abc import Mapping

import pandas as pd

from recircuit.core.nodes import Node, head, mlp
from recircuit.tasks.corpus import word_data

SIGMAS = 3.0


def published(name: str = "paper_camera_ready") -> pd.DataFrame:
    """Return a published circuit of gpt2-small as rows of ``gt_circuit``; the variants of later papers name late nodes only."""
    listed = word_data("greater_than/circuits")[name]
    roles = {
        "late_head": [head(*pair) for pair in listed.get("heads_at_END") or listed["mid_heads"]],
        "late_mlp": [mlp(layer) for layer in listed.get("late_mlps_at_END") or listed["late_mlps"]],
    }
    if "lower_nodes_at_YY" in listed:
        low = listed["lower_nodes_at_YY"]
        roles |= {
            "low_head": [head(*pair) for pair in low["heads_to_circuit_heads"]],
            "low_mlp": [mlp(layer) for layer in low["mlps"]],
            "low_mlp_head": [head(*pair) for pair in low["heads_to_lower_mlps"]],
        }
    return _rows({role: dict.fromkeys(nodes) for role, nodes in roles.items()}, "published")


def late_nodes(ipp: pd.DataFrame, share: float) -> pd.DataFrame:
    """Choose the heads and MLPs at the end position: what the logits hear, and what the MLPs so found hear."""
    mlps, heads = {}, {}
    stages = sorted((s for s in ipp["stage"].unique() if s.startswith("m")), key=lambda s: -int(s[1:]))
    for stage in ("logits", *stages):
        if stage == "logits" or mlp(int(stage[1:])) in mlps:
            for node, score in chosen(ipp, stage, share).items():
                kind = heads if node.kind == "attn" else mlps
                kind[node] = min(score, kind.get(node, 0.0))
    return _rows({"late_head": heads, "late_mlp": mlps}, "found")


def low_nodes(ipp: pd.DataFrame, share: float) -> pd.DataFrame:
    """Choose the nodes at YY that the values and keys of the circuit's heads hear, and the heads that those MLPs hear."""
    heard = chosen(ipp, "v", share)
    for node, score in chosen(ipp, "k", share).items():
        heard[node] = min(score, heard.get(node, 0.0))
    kinds = {"low_head": "attn", "low_mlp": "mlp", "low_embed": "embed"}
    roles = {role: {n: s for n, s in heard.items() if n.kind == kind} for role, kind in kinds.items()}
    feeding: dict[Node, float] = {}
    for node in roles["low_mlp"]:
        feeding |= {n: s for n, s in chosen(ipp, f"low_m{node.layer}", share).items() if n.kind == "attn"}
    return _rows(roles | {"low_mlp_head": feeding}, "found")


def chosen(ipp: pd.DataFrame, stage: str, share: float) -> dict[Node, float]:
    """Return the senders of a stage that the rule chooses, with their effect."""
    rows = ipp[(ipp["stage"] == stage) & ipp["eligible"]]
    enough = rows["delta_pd"] <= -share * rows["baseline_pd"].abs()
    certain = rows["delta_pd"].abs() > SIGMAS * rows["delta_pd_sem"]
    return {Node.parse(r.sender): float(r.delta_pd) for r in rows[enough & certain].itertuples()}


def _rows(roles: Mapping[str, Mapping[Node, float | None]], source: str) -> pd.DataFrame:
    rows = [
        {
            "role": role,
            "node": str(node),
            "layer": -1 if node.layer is None else node.layer,
            "head": node.head,
            "score": score,
            "source": source,
        }
        for role, nodes in roles.items()
        for node, score in nodes.items()
    ]
    columns = ["role", "node", "layer", "head", "score", "source"]
    return pd.DataFrame(rows, columns=columns).astype({"head": "Int16", "score": "float64"})
