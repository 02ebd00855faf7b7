"""E11: the node search in Llama-2, one backward pass on a few prompts, and what each head is worth.

Variants: ``published`` reads the last token but one, as the authors' end index does (it was counted without the token that
begins the text), and takes means over the corrupted prompts that their notebook displays; number words and months then have a
negative logit difference, by which percentages are divided all the same. ``fixed`` reads the last token, and does the whole
again for each redrawn set of corrupted prompts. Means of ablated MLPs are the published ones in both, taken with the current
heads ablated (E1).
"""

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from recircuit.core.metrics import logit_diff, percent_of
from recircuit.core.model import Model
from recircuit.experiments.sequence_continuation.pruning import FRAGILE
from recircuit.experiments.sequence_continuation.setting import node_columns, typed
from recircuit.methods.ablation import Prompts, Reference, circuit_logits, mean_reference
from recircuit.methods.pruning import Decision, Pruner
from recircuit.methods.sweep import sweep_nodes
from recircuit.runs.progress import counted

Log = Callable[[str], None]
SETS = {"published": "corrupted", "fixed": "corrupted_fixed"}
FROM_LAST = {"published": 2, "fixed": 1}  # the token that is read, counted from the end
NODE = ["node", "component", "layer", "head"]


class OnePass(Pruner):
    """Pruning that stops after one backward pass: each MLP, then the heads of its layer, from the last layer to the first."""

    @torch.inference_mode()
    def run(self) -> list[Decision]:
        """Try every component once."""
        self._backward(1)
        return self.decisions


def cases(prompts: pd.DataFrame, variant: str, device: torch.device) -> Iterator[tuple[str, int, Prompts, Tensor]]:
    """Yield (task, draw, clean prompts, corrupted tokens [M T]) of a variant, in the order of the table's tasks."""
    for task, rows in prompts.groupby("task", sort=False):
        clean = rows[rows["set"] == "clean"].sort_values("row")
        tokens = _tokens(clean, device)
        end = torch.full((len(clean),), tokens.shape[1] - FROM_LAST[variant], device=device)
        answers = torch.tensor(clean[["corr_id", "incorr_id"]].to_numpy().tolist(), device=device)
        for draw, corrupted in rows[rows["set"] == SETS[variant]].groupby("draw"):
            yield task, int(draw), Prompts(tokens, end, answers), _tokens(corrupted.sort_values("row"), device)


def _tokens(rows: pd.DataFrame, device: torch.device) -> Tensor:
    return torch.from_numpy(np.stack(rows["tokens"])).long().to(device)


def prune_llama(
    model: Model, prompts: pd.DataFrame, variant: str, threshold: float, chunk: int, log: Log
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """E11: return the rows of llama_trace, llama_circuits and llama_drops, without the columns of model and variant."""
    trace, left, drops = [], [], []
    searches = list(cases(prompts, variant, model.device))
    for task, draw, clean, corrupted in counted(searches, log, "searches"):
        reference = mean_reference(model, corrupted, "position", chunk)
        pruner = OnePass(model, clean, reference, threshold, chunk, corrupted=corrupted)
        key = {"task": task, "draw": draw}
        full_ld = float(pruner.full.double().mean())
        trace += [{**key, **_decision(decision, threshold), "full_ld": full_ld} for decision in pruner.run()]
        left += [{**key, **node_columns(node)} for node in sorted(pruner.circuit.nodes)]
        inside = list(_inside(pruner, clean, reference, corrupted))
        drops += [{**key, **row} for row in [*inside, *_alone(model, clean, reference, chunk)]]
        heads, mlps = len(pruner.circuit.heads()), len(pruner.circuit.mlps())
        log(f"{variant}, {task}, draw {draw}: logit difference {full_ld:.4f}; {heads} heads and {mlps} MLPs left")
    circuits = _with_share(typed(left, ["task", "draw", *NODE]), pd.DataFrame(trace))
    return typed(trace).drop(columns=["iteration", "direction"]), circuits, typed(drops)


def _decision(decision: Decision, threshold: float) -> dict:
    margin = decision.score - (100 - threshold)
    return {
        "iteration": decision.iteration, "direction": decision.direction, "order": decision.order,
        **node_columns(decision.node), "score_pct": decision.score, "removed": decision.removed,
        "margin_pct": margin, "fragile": abs(margin) < FRAGILE,
    }  # fmt: skip


def _with_share(circuits: pd.DataFrame, trace: pd.DataFrame) -> pd.DataFrame:
    """Add ``share``: in how many of a task's draws the node is left. Draws are counted in the trace: a circuit may be empty."""
    draws = trace.groupby("task")["draw"].nunique()
    kept = circuits.groupby(["task", "node"])["draw"].transform("size")
    return circuits.assign(share=(kept / circuits["task"].map(draws)).astype(float))


def _inside(pruner: OnePass, clean: Prompts, reference: Reference, corrupted: Tensor) -> Iterator[dict]:
    """Yield the score of the circuit without each of its heads, and its change in percentage points (as in E3)."""

    def score(circuit) -> float:
        logits = circuit_logits(pruner.model, clean, circuit, reference, pruner.chunk, corrupted)
        return percent_of(logit_diff(logits), pruner.full)

    heads = [node for node in sorted(pruner.circuit.nodes) if node.kind == "attn"]
    base = score(pruner.circuit) if heads else 0.0
    for node in heads:
        without = score(pruner.circuit.without(node))
        yield {**_named(node), "base": "circuit", "score_pct": without, "drop_pp": without - base, "base_pct": base}


def _alone(model: Model, clean: Prompts, reference: Reference, chunk: int) -> Iterator[dict]:
    """Yield the score of the full model without each head or MLP (as in E4)."""
    sweep = sweep_nodes(model, clean, reference, chunk)
    full = logit_diff(sweep.full)
    for node, logits in zip(sweep.nodes, sweep.ablated, strict=True):
        score = percent_of(logit_diff(logits), full)
        yield {**_named(node), "base": "full", "score_pct": score, "drop_pp": score - 100, "base_pct": 100.0}


def _named(node) -> dict:
    return {key: value for key, value in node_columns(node).items() if key != "node"}
