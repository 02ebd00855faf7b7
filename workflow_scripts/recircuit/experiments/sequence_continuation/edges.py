"""E6: edges of the circuits tested one at a time, attributed by gradients, and evaluated together as graphs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from torch import Tensor

from recircuit.core.metrics import logit_diff, percent_of, top_one_of_two
from recircuit.core.nodes import Circuit, Edge, Node
from recircuit.core.stats import stream
from recircuit.experiments.overlaps import circuits_of
from recircuit.experiments.sequence_continuation.setting import Setting, interval
from recircuit.methods.ablation import Prompts
from recircuit.methods.attribution import estimate, exact
from recircuit.methods.edge_base import Base, base_of
from recircuit.methods.edge_graph import graph_logits, without_each
from recircuit.methods.paths import patch_edges
from recircuit.runs.progress import Countdown

Log = Callable[[str], None]
SHARES = (0.05, 0.1, 0.2, 0.4, 0.7)  # sizes of the graphs of attribution, as shares of the tested edges
EDGE_COLUMNS = [
    *("task", "sender", "sender_kind", "sender_layer", "sender_head", "receiver", "receiver_kind", "receiver_layer"),
    *("receiver_head", "receiver_input", "score_ratio", "kept", "ci_lo", "ci_hi"),
]
LAYERS = dict.fromkeys(["sender_layer", "sender_head", "receiver_layer", "receiver_head"], "Int16")
KINDS = {"attn": "head", "mlp": "mlp", "logits": "resid"}


@dataclass(frozen=True)
class Job:
    """A task with a circuit, the base in which its edges run, clean prompts and their corrupted twins [N T]."""

    task: str
    circuit: Circuit
    base: Base
    prompts: Prompts
    corrupted: Tensor
    full: Tensor  # logit differences [N] of the whole model


def _jobs(setting: Setting, trace: pd.DataFrame, variant: str, threshold: float) -> Iterator[Job]:
    """Yield each task's circuit of the main pruning run at a threshold."""
    shape = setting.model.spec.n_layers, setting.model.spec.n_heads
    for task, name, found_at, circuit in circuits_of(trace, *shape):
        if name == "main" and found_at == threshold:
            reference, extra = setting.reference(task, variant), setting.corrupted(task, variant)
            base = base_of(setting.model, circuit, reference, setting.chunk, extra)
            yield Job(task, circuit, base, setting.prompts(task), setting.twins(task, variant), setting.full(task))


def patched_edges(
    setting: Setting, trace: pd.DataFrame, variant: str, *, seed: int, threshold: float, edge_threshold: float,
    bootstrap_draws: int, log: Log,
) -> pd.DataFrame:  # fmt: skip
    """E6: what is left of the full model's mean logit difference with one edge patched; kept are edges that leave too little.

    Returns rows of edges, without model and variant. Intervals are 95 %, over prompts. ``threshold`` is that of the pruning
    whose circuits are taken, ``edge_threshold`` the share below which an edge is kept.
    """
    parts = []
    countdown = Countdown(trace["task"].nunique(), log, "circuits")
    for job in _jobs(setting, trace, variant, threshold):
        patched = patch_edges(job.base, job.circuit, job.prompts, job.corrupted, variant, setting.chunk)
        countdown.step()
        if not patched.edges:
            continue
        ld = logit_diff(patched.logits.flatten(0, 1)).view(len(patched.edges), -1)
        ratios = (ld.double().mean(1) / job.full.double().mean()).cpu().numpy()
        low, high = (bound / 100 for bound in interval(ld, job.full, seed, bootstrap_draws, job.task))
        rows = pd.DataFrame([_edge_columns(edge) for edge in patched.edges])
        kept = ratios < edge_threshold
        parts.append(rows.assign(task=job.task, score_ratio=ratios, kept=kept, ci_lo=low, ci_hi=high))
        log(f"{job.task}, {variant}: {kept.sum()} of {len(kept)} edges kept")
    return pd.concat(parts, ignore_index=True)[EDGE_COLUMNS].astype(LAYERS) if parts else _no_edges()


def _no_edges() -> pd.DataFrame:
    return pd.DataFrame(columns=EDGE_COLUMNS).astype({**LAYERS, "kept": bool, **dict.fromkeys(EDGE_COLUMNS[-4:], float)})


def _edge_columns(edge: Edge) -> dict:
    found = {}
    for side, node in (("sender", edge.src), ("receiver", edge.dst)):
        place = {f"{side}_kind": KINDS[node.kind], f"{side}_layer": node.layer, f"{side}_head": node.head}
        found |= {side: str(node), **place}
    return {**found, "receiver_input": edge.dst.input or "out"}


# ---- attribution ----------------------------------------------------------------------------------------------------


def attribute_edges(
    setting: Setting, trace: pd.DataFrame, *, seed: int, threshold: float, edge_top: int, log: Log
) -> pd.DataFrame:
    """Estimated effects of all edges of the full model and of each circuit (published variant), and exact ones of some.

    Exact are the ``edge_top`` largest of each method and as many drawn at random, whose rank correlation is logged. Returns
    rows of edge_attribution, without model; scores are changes of the mean logit difference, in logits.
    """
    whole, parts = Circuit.full(setting.model.spec.n_layers, setting.model.spec.n_heads), []
    countdown = Countdown(trace["task"].nunique(), log, "circuits")
    for job in _jobs(setting, trace, "published", threshold):
        everything = Job(job.task, whole, base_of(setting.model, whole, None, setting.chunk), *_data(job))
        for name, chosen in (("full", everything), ("circuit", job)):
            parts += _attributed(setting, name, chosen, seed, edge_top, log)
        countdown.step()
    return pd.concat(parts, ignore_index=True)


def _data(job: Job) -> tuple[Prompts, Tensor, Tensor]:
    return job.prompts, job.corrupted, job.full


def _attributed(setting: Setting, name: str, job: Job, seed: int, top: int, log: Log) -> list[pd.DataFrame]:
    edges, found = estimate(job.base, job.circuit, job.prompts, job.corrupted, setting.chunk)
    scores = {method: score.cpu().numpy() for method, score in found.items()}
    rng = stream(seed, "sequence_continuation", "edge sample", name, job.task)
    sample = rng.choice(len(edges), min(top, len(edges)), replace=False)
    largest = [np.argsort(-np.abs(score), kind="stable")[:top] for score in scores.values()]
    chosen = np.unique(np.concatenate([*largest, sample]))
    plain, patched = exact(job.base, job.prompts, job.corrupted, [edges[i] for i in chosen], setting.chunk)
    effects = np.full(len(edges), np.nan)
    change = logit_diff(patched.flatten(0, 1)).view(len(chosen), -1) - logit_diff(plain)
    effects[chosen] = change.double().mean(1).cpu().numpy()
    ends = {"sender": [str(edge.src) for edge in edges], "receiver": [str(edge.dst) for edge in edges]}
    for method, score in scores.items():
        rank = pd.Series(score[sample]).corr(pd.Series(effects[sample]), method="spearman")
        log(f"{job.task}, {name}: {method} of {len(edges)} edges, rank correlation {rank:.3f} on {len(sample)} random ones")
    return [
        pd.DataFrame({"base": name, "task": job.task, "method": method, **ends, "score": score, "exact": effects})
        for method, score in scores.items()
    ]


# ---- edges together -------------------------------------------------------------------------------------------------


def evaluate_graphs(
    setting: Setting, trace: pd.DataFrame, edges: pd.DataFrame, variant: str, *, seed: int, threshold: float,
    edge_random_graphs: int, log: Log,
) -> tuple[pd.DataFrame, pd.DataFrame]:  # fmt: skip
    """Circuits of edges as a whole: rows of edge_graphs and of edge_minimality, without model and variant.

    A graph is a set of the edges that were tested (rows of ``edges`` of this variant): all, none, those kept, the largest by
    attribution in the circuit (by size, whatever the sign), and random ones as many as are kept. Edges that are not tested,
    such as the embedding's, always stay. ``score_pct`` has the graph's edges alone (faithfulness), ``complement_pct`` all but
    these (completeness), both in percent of the full model's mean logit difference. ``drop_pp`` is the change of the kept
    graph's score, in percentage points, when one of its edges is removed too (minimality).
    """
    graphs, minimal = [], []
    countdown = Countdown(trace["task"].nunique(), log, "circuits")
    for job in _jobs(setting, trace, variant, threshold):
        rows = edges[edges["task"] == job.task]
        tested = [Edge(*map(Node.parse, pair)) for pair in zip(rows["sender"], rows["receiver"], strict=True)]
        kept = [edge for edge, keep in zip(tested, rows["kept"], strict=True) if keep]
        chosen = list(_graphs(setting, job, tested, kept, seed, edge_random_graphs))
        graphs.append(_graph_rows(setting, job, frozenset(tested), chosen))
        minimal.append(_minimality(setting, job, set(tested) - set(kept), kept))
        log(f"{job.task}, {variant}: {len(chosen)} graphs, {len(kept)} kept edges removed one by one")
        countdown.step()
    return pd.concat(graphs, ignore_index=True).astype({"draw": "Int32"}), pd.concat(minimal, ignore_index=True)


def _graphs(setting: Setting, job: Job, tested: list[Edge], kept: list[Edge], seed: int, draws: int):
    """Yield (name, draw or None, edges)."""
    yield "all", None, tested
    yield "none", None, []
    yield "kept", None, kept
    sizes = sorted({len(kept), *(round(share * len(tested)) for share in SHARES)} - {0, len(tested)})
    edges, found = estimate(job.base, job.circuit, job.prompts, job.corrupted, setting.chunk)
    for method, scores in found.items():
        score = dict(zip(edges, scores.tolist(), strict=True))
        ranked = sorted(tested, key=lambda edge: (-abs(score[edge]), edge))
        for size in sizes:
            yield method, None, ranked[:size]
    for draw in range(draws if kept else 0):
        rng = stream(seed, "sequence_continuation", "edge graph", job.task, draw)
        yield "random", draw, [tested[i] for i in rng.choice(len(tested), len(kept), replace=False)]


def _graph_rows(setting: Setting, job: Job, tested: frozenset[Edge], chosen: list) -> pd.DataFrame:
    removed = [part for _, _, graph in chosen for part in (tested - frozenset(graph), frozenset(graph))]
    once = list(dict.fromkeys(removed))  # the complement of all edges is no edge, and so on
    logits = graph_logits(job.base, job.circuit, job.prompts, job.corrupted, once, setting.chunk)
    of = dict(zip(once, logits, strict=True))
    rows = []
    for (name, draw, graph), alone, rest in zip(chosen, removed[::2], removed[1::2], strict=True):
        score, complement = (percent_of(logit_diff(of[part]), job.full) for part in (alone, rest))
        accuracy, n = top_one_of_two(of[alone]), len(job.full)
        rows.append((job.task, name, len(graph), draw, score, complement, accuracy, n))
    return pd.DataFrame(rows, columns=["task", "graph", "n_edges", "draw", "score_pct", "complement_pct", "accuracy", "n"])


def _minimality(setting: Setting, job: Job, removed: set[Edge], kept: list[Edge]) -> pd.DataFrame:
    data = job.prompts, job.corrupted
    plain, without = without_each(job.base, job.circuit, *data, removed, kept, setting.chunk)
    before = percent_of(logit_diff(plain), job.full)
    rows = [
        (job.task, str(edge.src), str(edge.dst), percent_of(logit_diff(logits), job.full) - before)
        for edge, logits in zip(kept, without, strict=True)
    ]
    return pd.DataFrame(rows, columns=["task", "sender", "receiver", "drop_pp"]).astype({"drop_pp": float})
