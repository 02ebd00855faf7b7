"""E2: iterative pruning of one task, every decision with its margin."""

from collections.abc import Callable

import pandas as pd

from recircuit.core.nodes import mlp
from recircuit.experiments.sequence_continuation.setting import Setting, node_columns, typed
from recircuit.methods.pruning import Decision, Pruner

FRAGILE = 0.1  # percentage points from the threshold within which a decision may flip with the order of additions


def prune(
    setting: Setting, task: str, variant: str, thresholds: list[float], protected: list[float], log: Callable[[str], None]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """E2: prune at each threshold, and at those of ``protected`` again with the last MLP protected.

    Returns rows of node_trace and of circuits, without the columns of model, task and variant.
    """
    last = mlp(setting.model.spec.n_layers - 1)
    runs = [("main", t, frozenset()) for t in thresholds] + [("protected", t, frozenset({last})) for t in protected]
    trace, left = [], []
    for name, threshold, kept in runs:
        pruner = Pruner(
            setting.model, setting.prompts(task), setting.reference(task, variant), threshold, setting.chunk,
            corrupted=setting.corrupted(task, variant), protected=kept, log=log,
        )  # fmt: skip
        decisions = pruner.run()
        log(f"{task} {variant} {name} T={threshold:g}: {len(decisions)} evaluations, {len(pruner.circuit.nodes)} nodes left")
        trace += [{"run": name, "threshold": threshold, **_decision(d, threshold)} for d in decisions]
        left += [{"run": name, "threshold": threshold, **node_columns(node)} for node in sorted(pruner.circuit.nodes)]
    return typed(trace), typed(left, ["run", "threshold", "node", "component", "layer", "head"])


def _decision(decision: Decision, threshold: float) -> dict:
    margin = decision.score - (100 - threshold)
    return {
        "iteration": decision.iteration, "direction": decision.direction, "order": decision.order,
        **node_columns(decision.node), "score_pct": decision.score, "removed": decision.removed,
        "margin_pct": margin, "fragile": abs(margin) < FRAGILE,
    }  # fmt: skip
