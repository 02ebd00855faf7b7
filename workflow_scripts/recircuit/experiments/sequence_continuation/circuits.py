"""E3 and E5: circuits on every task, without each of their heads, and beside random circuits."""

from collections.abc import Callable

import pandas as pd
import torch
from torch import Tensor

from recircuit.core.metrics import logit_diff, percent_of, top_one_of_two
from recircuit.core.nodes import Circuit
from recircuit.core.stats import stream
from recircuit.experiments.overlaps import circuits_of
from recircuit.experiments.sequence_continuation.setting import Setting, interval
from recircuit.runs.progress import counted
from recircuit.tasks.corpus import word_data
from recircuit.tasks.sequence_continuation import TASKS


def circuit_scores(
    setting: Setting, trace: pd.DataFrame, variant: str, *, seed: int, threshold: float, random_circuits: int,
    bootstrap_draws: int, ioi: bool, log: Callable[[str], None],
) -> pd.DataFrame:  # fmt: skip
    """E5 and controls: circuits on their own task (all thresholds) and on the others, full, empty and random circuits.

    ``ioi`` adds the 26 heads of Wang et al. with all MLPs, which only gpt2-small has.
    """
    shape = setting.model.spec.n_layers, setting.model.spec.n_heads
    jobs = list(_fixed_circuits(shape, ioi))
    for task, name, found_at, circuit in circuits_of(trace, *shape):
        label = task if name == "main" else f"{task}_{name}"
        everywhere = TASKS if found_at == threshold else (task,)
        jobs.append((dict(circuit=label, circuit_kind="found", run=name, threshold=found_at), circuit, everywhere))
        if name == "main" and found_at == threshold:
            jobs += _random_circuits(circuit, task, threshold, shape, seed, random_circuits)
    parts = []
    for task in TASKS:
        full = setting.full(task)
        here = [(key, circuit) for key, circuit, tasks in jobs if task in tasks]
        for key, circuit in counted(here, log, f"{task}: circuits"):
            parts.append({**key, "data_task": task, **_score(setting, task, variant, circuit, full, seed, bootstrap_draws)})
        log(f"{task}: {len(here)} circuits scored")
    return pd.DataFrame(parts).assign(draw=lambda frame: frame["draw"].astype("Int32"))


def _fixed_circuits(shape: tuple[int, int], ioi: bool):
    yield dict(circuit="full", circuit_kind="full", run="main"), Circuit.full(*shape), TASKS
    yield dict(circuit="empty", circuit_kind="empty", run="main"), Circuit.of([], []), TASKS
    if ioi:
        listed = word_data("sequence_continuation/circuits_gpt2")["ioi_heads_all_mlps"]
        heads = [tuple(pair) for pairs in listed["heads_by_class"].values() for pair in pairs]
        yield dict(circuit="ioi", circuit_kind="ioi", run="main"), Circuit.of(heads, listed["mlps"]), TASKS


def _random_circuits(circuit: Circuit, task: str, threshold: float, shape: tuple[int, int], seed: int, n: int):
    for kind, by_layer in (("random_size", False), ("random_layer", True)):
        for draw in range(n):
            rng = stream(seed, "sequence_continuation", kind, task, draw)
            key = dict(circuit=task, circuit_kind=kind, run="main", threshold=threshold, draw=draw)
            yield key, circuit.random_like(*shape, rng, by_layer=by_layer), (task,)


def _score(setting: Setting, task: str, variant: str, circuit: Circuit, full: Tensor, seed: int, draws: int) -> dict:
    logits = setting.logits(task, variant, circuit)
    ld = logit_diff(logits)
    (low,), (high,) = interval(ld[None], full, seed, draws, task)
    return {
        "score_pct": percent_of(ld, full), "ld": float(ld.double().mean()), "accuracy": top_one_of_two(logits),
        "n_heads": len(circuit.heads()), "n_mlps": len(circuit.mlps()), "n": len(ld), "ci_lo": low, "ci_hi": high,
    }  # fmt: skip


def head_drops(setting: Setting, trace: pd.DataFrame, variant: str, seed: int, threshold: float, draws: int) -> pd.DataFrame:
    """E3: change of each circuit's score, in percentage points, when one of its heads is ablated as well."""
    parts, shape = [], (setting.model.spec.n_layers, setting.model.spec.n_heads)
    for task, name, found_at, circuit in circuits_of(trace, *shape):
        if found_at != threshold or not circuit.heads():
            continue
        full, base = setting.full(task), logit_diff(setting.logits(task, variant, circuit))
        heads = [node for node in sorted(circuit.nodes) if node.kind == "attn"]
        without = torch.stack([logit_diff(setting.logits(task, variant, circuit.without(node))) for node in heads])
        low, high = interval(without - base, full, seed, draws, task)
        for node, ld, a, b in zip(heads, without, low, high, strict=True):
            score = percent_of(ld, full)
            parts.append(
                {"task": task, "run": name, "layer": node.layer, "head": node.head, "score_pct": score,
                 "drop_pp": score - percent_of(base, full), "ci_lo": a, "ci_hi": b}
            )  # fmt: skip
    columns = ["task", "run", "layer", "head", "score_pct", "drop_pp", "ci_lo", "ci_hi"]
    return pd.DataFrame(parts, columns=columns)
