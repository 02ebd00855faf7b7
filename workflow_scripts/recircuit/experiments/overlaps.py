"""What circuits share, beside what random circuits of the same sizes would (sequence continuation, E5 and E11)."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import pandas as pd

from recircuit.core.nodes import Circuit, Node, head, mlp, overlap
from recircuit.tasks.corpus import word_data

Sets = Mapping[str, Mapping[str, set[Node]]]  # task -> component -> nodes


def circuits_of(trace: pd.DataFrame, n_layers: int, n_heads: int) -> Iterator[tuple[str, str, float, Circuit]]:
    """Yield (task, run, threshold, circuit) of pruning traces: what is left of the model, be it nothing."""
    for (task, name, threshold), part in trace.groupby(["task", "run", "threshold"], sort=True):
        removed = {Node.parse(node) for node in part.loc[part["removed"].astype(bool), "node"]}
        yield task, name, float(threshold), Circuit(Circuit.full(n_layers, n_heads).nodes - removed)


def circuit_sets(trace: pd.DataFrame, threshold: float, n_layers: int, n_heads: int) -> Sets:
    """Return the circuits found at a threshold as sets of nodes by task and component."""
    return {
        task: {
            kind: {node for node in circuit.nodes if node.kind == wanted} for kind, wanted in (("head", "attn"), ("mlp", "mlp"))
        }
        for task, name, found_at, circuit in circuits_of(trace, n_layers, n_heads)
        if name == "main" and found_at == threshold
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
