"""What circuits share, beside what random circuits of the same sizes would (sequence continuation, E5 and E11)."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import pandas as pd

from recircuit.core.nodes import Node, head, mlp, overlap
from recircuit.tasks.corpus import word_data

Sets = Mapping[str, Mapping[str, set[Node]]]  # task -> component -> nodes


def circuit_sets(circuits: pd.DataFrame) -> Sets:
    """Turn rows of the circuits table into sets of nodes by task and component."""
    return {
        task: {kind: {Node.parse(name) for name in rows.loc[rows["component"] == kind, "node"]} for kind in ("head", "mlp")}
        for task, rows in circuits.groupby("task", sort=False)
    }


def published_sets(name: str) -> Sets:
    """Read the published circuits of a model from the papers' lists."""
    listed = {task: parts for task, parts in word_data(name).items() if isinstance(parts, dict) and "heads" in parts}
    return {
        task: {"head": {head(*pair) for pair in parts["heads"]}, "mlp": {mlp(layer) for layer in parts.get("mlps") or ()}}
        for task, parts in listed.items()
    }


def overlaps(sets: Sets, n_layers: int, n_heads: int, groups: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Compare every pair of circuits, and intersect whole ``groups`` of them (rows with a = b = the group's name).

    ``expected`` and ``p_value`` are hypergeometric: two random subsets of all heads, or of all MLPs, of these sizes.
    """
    rows = []
    for kind, population in (("head", n_layers * n_heads), ("mlp", n_layers)):
        for a, b in combinations(sets, 2):
            found = overlap(sets[a][kind], sets[b][kind], population)
            rows.append({"a": a, "b": b, "component": kind, **vars(found), "shared": _names(sets[a][kind] & sets[b][kind])})
        for name, tasks in groups.items():
            members = [sets[task][kind] for task in tasks]
            shared, union = set.intersection(*members), set.union(*members)
            size = {"n_a": len(shared), "n_b": len(shared), "n_shared": len(shared), "n_union": len(union)}
            share = len(shared) / len(union) if union else 1.0
            rows.append({"a": name, "b": name, "component": kind, **size, "iou": share, "shared": _names(shared)})
    return pd.DataFrame(rows)


def _names(nodes: set[Node]) -> str:
    return " ".join(str(node) for node in sorted(nodes))
