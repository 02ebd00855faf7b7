"""E0 to E5 of the sequence-continuation paper: from prompts and a model to rows of tables.

Variants: ``published`` ablates with the released corrupted prompts and takes the means of ablated MLPs with the current heads
ablated, as the authors' code does; ``fixed`` with prompts corrupted slot by slot, and means of the unablated model.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from recircuit.core.errors import UserError
from recircuit.core.files import atomic
from recircuit.core.metrics import answer_stats, logit_diff, percent_of, top_one_of_two
from recircuit.core.model import Model
from recircuit.core.nodes import Circuit, Node
from recircuit.core.nodes import mlp as mlp_node
from recircuit.core.stats import bootstrap_percent, stream
from recircuit.methods.ablation import Prompts, Reference, circuit_logits, full_logits, mean_reference
from recircuit.methods.pruning import Decision, Pruner
from recircuit.methods.sweep import sweep_nodes
from recircuit.runs.budget import in_chunks
from recircuit.runs.forward import forward
from recircuit.tasks.corpus import word_data
from recircuit.tasks.sequence_continuation import LENGTH, TASKS

CORRUPTED = {"published": "corrupted", "fixed": "corrupted_fixed"}
FRAGILE = 0.1  # percentage points from the threshold within which a decision may flip with the order of additions
Log = Callable[[str], None]

__all__ = ["LENGTH", "Setting", "baseline", "circuit_scores", "head_drops", "means", "prune", "single_ablations"]


def prompts_of(frame: pd.DataFrame, device: torch.device) -> Prompts:
    """Turn rows of the prompts table into tensors; ``end`` is the last token."""
    tokens = torch.from_numpy(np.stack(frame["tokens"])).long().to(device)
    end = torch.full((len(frame),), tokens.shape[1] - 1, device=device)
    answers = torch.tensor(frame[["corr_id", "incorr_id"]].to_numpy(), device=device).long()
    return Prompts(tokens, end, answers)


def select(prompts: pd.DataFrame, task: str, kind: str) -> pd.DataFrame:
    """Return the rows of one task and set, in the order of the paper."""
    return prompts[(prompts["task"] == task) & (prompts["set"] == kind)].sort_values("row")


# ---- E0 and E1 ------------------------------------------------------------------------------------------------------


def baseline(model: Model, prompts: pd.DataFrame, bos: int | None, chunk: int, log: Log) -> pd.DataFrame:
    """E0: logits, probabilities and rank of the answers on clean prompts, without and (if there is one) with ``bos``."""
    parts = []
    for task in TASKS:
        rows = select(prompts, task, "clean")
        data = prompts_of(rows, model.device)
        for with_bos in (False, True) if bos is not None else (False,):
            stats = _stats(model, data, bos if with_bos else None, chunk)
            log(
                f"{task}, {'with' if with_bos else 'without'} end-of-text token: mean logit difference {stats['ld'].mean():.4f}"
            )
            parts.append(pd.DataFrame({"task": task, "bos": with_bos, "row": rows["row"].to_numpy(), **stats}))
    return pd.concat(parts, ignore_index=True)


@torch.inference_mode()
def _stats(model: Model, data: Prompts, bos: int | None, chunk: int) -> dict[str, np.ndarray]:
    tokens, end = data.tokens, data.end
    if bos is not None:
        tokens, end = torch.cat([torch.full_like(tokens[:, :1], bos), tokens], 1), end + 1
    parts = [
        answer_stats(forward(model, tokens[rows], end[rows]), data.answers[rows])
        for rows, _ in in_chunks(lambda rows: None, len(data), chunk)
    ]
    return {key: torch.cat([part[key] for part in parts]).cpu().numpy() for key in parts[0]}


def require_accuracy(rows: pd.DataFrame, name: str, least: float) -> None:
    """Raise UserError when a model prefers the right answer on too few prompts to have a circuit for the task."""
    for task, found in rows[~rows["bos"]].groupby("task"):
        accuracy, ld = float((found["ld"] > 0).mean()), float(found["ld"].mean())
        if accuracy < least or ld <= 0:
            raise UserError(
                f"model '{name}' cannot do {task}: accuracy {accuracy:.3f} (at least {least} is asked for), mean logit "
                f"difference {ld:.3f}; take it out of sequence_continuation.models"
            )


def means(model: Model, prompts: pd.DataFrame, chunk: int, log: Log) -> dict[str, Tensor]:
    """E1: mean z [L T H e] and MLP outputs [L T d] by position over the corrupted prompts, by variant and task."""
    found = {}
    for variant, kind in CORRUPTED.items():
        for task in TASKS:
            data = prompts_of(select(prompts, task, kind), model.device)
            reference = mean_reference(model, data.tokens, "position", chunk)
            found[f"{variant}/{task}/heads"] = reference.heads[:, 0].contiguous()
            found[f"{variant}/{task}/mlps"] = reference.mlps[:, 0].contiguous()
            log(f"means of {task}, {variant}, over {len(data)} corrupted prompts")
    return found


def write_means(path: str, found: Mapping[str, Tensor], passport: Mapping) -> None:
    """Write means with their passport as safetensors metadata."""
    tensors = {name: tensor.cpu() for name, tensor in found.items()}
    with atomic(path) as part:
        save_file(tensors, part, metadata={"recircuit": json.dumps(passport, sort_keys=True)})


class Setting:
    """A model with the paper's prompts and means at hand."""

    def __init__(self, model: Model, prompts: pd.DataFrame, means_path: str | Path, chunk: int) -> None:
        self.model, self.chunk = model, chunk
        self._prompts = {
            key: prompts_of(rows.sort_values("row"), model.device) for key, rows in prompts.groupby(["task", "set"])
        }
        with safe_open(str(means_path), framework="pt", device=str(model.device)) as file:
            self._means = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)

    def prompts(self, task: str) -> Prompts:
        """Return the clean prompts of a task."""
        return self._prompts[task, "clean"]

    def corrupted(self, task: str, variant: str) -> Tensor | None:
        """Return the prompts that MLP means are taken over again for each circuit; None in the fixed variant."""
        return self._prompts[task, CORRUPTED[variant]].tokens if variant == "published" else None

    def reference(self, task: str, variant: str) -> Reference:
        """Return the means of the unablated model."""
        return Reference(*(self._means[f"{variant}/{task}/{part}"][:, None] for part in ("heads", "mlps")))

    def logits(self, task: str, variant: str, circuit: Circuit) -> Tensor:
        """Return the answers' logits [N 2] of a circuit on a task's clean prompts."""
        extra = self.corrupted(task, variant)
        return circuit_logits(self.model, self.prompts(task), circuit, self.reference(task, variant), self.chunk, extra)

    def full(self, task: str) -> Tensor:
        """Return the logit differences [N] of the whole model on a task's clean prompts."""
        return logit_diff(full_logits(self.model, self.prompts(task), self.chunk))


# ---- E2 -------------------------------------------------------------------------------------------------------------


def prune(
    setting: Setting, task: str, variant: str, thresholds: list[float], protected: list[float], log: Log
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """E2: prune at each threshold, and at those of ``protected`` again with the last MLP protected.

    Returns rows of node_trace and of circuits, without the columns of model, task and variant.
    """
    last = mlp_node(setting.model.spec.n_layers - 1)
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
    return _typed(trace), _typed(left, ["run", "threshold", "node", "component", "layer", "head"])


def _decision(decision: Decision, threshold: float) -> dict:
    margin = decision.score - (100 - threshold)
    return {
        "iteration": decision.iteration, "direction": decision.direction, "order": decision.order,
        **node_columns(decision.node), "score_pct": decision.score, "removed": decision.removed,
        "margin_pct": margin, "fragile": abs(margin) < FRAGILE,
    }  # fmt: skip


def node_columns(node: Node) -> dict:
    """Return a head's or MLP's columns: its name, component, layer and head (None for an MLP)."""
    return {"node": str(node), "component": "head" if node.kind == "attn" else "mlp", "layer": node.layer, "head": node.head}


def _typed(rows: list[dict], columns: list[str] | None = None) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=columns).astype({"head": "Int16"})


# ---- E3, E4 and E5 --------------------------------------------------------------------------------------------------


def single_ablations(setting: Setting, seed: int, draws: int, log: Log) -> pd.DataFrame:
    """E4: the full model's score (percent) with one node mean-ablated, for every head and MLP, task and variant."""
    parts = []
    for variant in CORRUPTED:
        for task in TASKS:
            sweep = sweep_nodes(setting.model, setting.prompts(task), setting.reference(task, variant), setting.chunk)
            full, ablated = logit_diff(sweep.full), torch.stack([logit_diff(a) for a in sweep.ablated])
            scores = np.array([percent_of(a, full) for a in ablated])
            low, high = _interval(ablated, full, seed, draws, task)
            rows = _typed([node_columns(node) for node in sweep.nodes]).drop(columns="node")
            parts.append(rows.assign(task=task, variant=variant, score_pct=scores, drop_pp=scores - 100, ci_lo=low, ci_hi=high))
            log(f"{task}, {variant}: {len(scores)} nodes, worst {sweep.nodes[int(scores.argmin())]} at {scores.min():.2f} %")
    return pd.concat(parts, ignore_index=True)


def _interval(scores: Tensor, full: Tensor, seed: int, draws: int, task: str) -> tuple[np.ndarray, np.ndarray]:
    """Return 95 % intervals, in percent, of scores [k N]; the same resamples of a task's prompts for every circuit."""
    rng = stream(seed, "sequence_continuation", "bootstrap", task)
    return bootstrap_percent(scores.cpu().numpy(), full.cpu().numpy(), rng, draws=draws)


def circuits_of(rows: pd.DataFrame) -> Iterator[tuple[str, str, float, Circuit]]:
    """Yield (task, run, threshold, circuit) of the circuits table."""
    for (task, name, threshold), part in rows.groupby(["task", "run", "threshold"], sort=True):
        yield task, name, float(threshold), Circuit(frozenset(map(Node.parse, part["node"])))


def circuit_scores(
    setting: Setting, rows: pd.DataFrame, variant: str, *, seed: int, threshold: float, random_circuits: int,
    bootstrap_draws: int, ioi: bool, log: Log,
) -> pd.DataFrame:  # fmt: skip
    """E5 and controls: circuits on their own task (all thresholds) and on the others, full, empty and random circuits.

    ``ioi`` adds the 26 heads of Wang et al. with all MLPs, which only gpt2-small has.
    """
    shape = setting.model.spec.n_layers, setting.model.spec.n_heads
    jobs = list(_fixed_circuits(shape, ioi))
    for task, name, found_at, circuit in circuits_of(rows):
        label = task if name == "main" else f"{task}_{name}"
        everywhere = TASKS if found_at == threshold else (task,)
        jobs.append((dict(circuit=label, circuit_kind="found", run=name, threshold=found_at), circuit, everywhere))
        if name == "main" and found_at == threshold:
            jobs += _random_circuits(circuit, task, threshold, shape, seed, random_circuits)
    parts = []
    for task in TASKS:
        full = setting.full(task)
        for key, circuit, tasks in jobs:
            if task in tasks:
                parts.append({**key, "data_task": task, **_score(setting, task, variant, circuit, full, seed, bootstrap_draws)})
        log(f"{task}: {sum(task in tasks for _, _, tasks in jobs)} circuits scored")
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
    (low,), (high,) = _interval(ld[None], full, seed, draws, task)
    return {
        "score_pct": percent_of(ld, full), "ld": float(ld.double().mean()), "accuracy": top_one_of_two(logits),
        "n_heads": len(circuit.heads()), "n_mlps": len(circuit.mlps()), "n": len(ld), "ci_lo": low, "ci_hi": high,
    }  # fmt: skip


def head_drops(setting: Setting, rows: pd.DataFrame, variant: str, seed: int, threshold: float, draws: int) -> pd.DataFrame:
    """E3: change of each circuit's score, in percentage points, when one of its heads is ablated as well."""
    parts = []
    for task, name, found_at, circuit in circuits_of(rows):
        if found_at != threshold or not circuit.heads():
            continue
        full, base = setting.full(task), logit_diff(setting.logits(task, variant, circuit))
        heads = [node for node in sorted(circuit.nodes) if node.kind == "attn"]
        without = torch.stack([logit_diff(setting.logits(task, variant, circuit.without(node))) for node in heads])
        low, high = _interval(without - base, full, seed, draws, task)
        for node, ld, a, b in zip(heads, without, low, high, strict=True):
            score = percent_of(ld, full)
            parts.append(
                {"task": task, "run": name, "layer": node.layer, "head": node.head, "score_pct": score,
                 "drop_pp": score - percent_of(base, full), "ci_lo": a, "ci_hi": b}
            )  # fmt: skip
    columns = ["task", "run", "layer", "head", "score_pct", "drop_pp", "ci_lo", "ci_hi"]
    return pd.DataFrame(parts, columns=columns)
