"""E10: ten related tasks: does the model do them, what do its logits hear, and is it the same circuit?"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from recircuit.core.nodes import Node, head
from recircuit.experiments.greater_than.circuits import YearCircuit, sufficiency_of
from recircuit.experiments.greater_than.evaluation import Scores, heatmap_rows
from recircuit.experiments.greater_than.setting import Data, Log, Setting
from recircuit.experiments.greater_than.stages import end_stages, mlp_stages, stage_table
from recircuit.methods.years import probability_difference
from recircuit.tasks.greater_than_tasks import listed, step_of

SUCCESSES = (0, 2, 8, 9)  # tasks whose circuit the paper evaluates


def circuits_for(task: int, nodes: pd.DataFrame) -> dict[str, tuple[Sequence[Node], Sequence[int]]]:
    """Return the circuits to try on a task: the model's; for task 2 of gpt2-small also with MLP 7, a7.h11 and a6.h1."""
    circuit = YearCircuit.of(nodes)
    found = {"circuit": (circuit.heads, circuit.mlps)}
    if task == 2 and (nodes["source"] == "published").all():
        extra = next(t for t in listed() if t["id"] == 2)
        heads = (*circuit.heads, *(head(*pair) for pair in extra["extra_heads"]))
        found["extended"] = (heads, (*extra["extra_mlps"], *circuit.mlps))
    return found


@torch.inference_mode()
def run_task(setting: Setting, data: Data, task: int, variant: str, nodes: pd.DataFrame) -> tuple[list[dict], pd.DataFrame]:
    """Return a task's rows of ``gt_tasks`` and its heatmap of the clean run; circuits for every task of the same direction."""
    jobs = circuits_for(task, nodes)
    found = {key: Scores.empty(len(data)) for key in ("clean", *jobs)}
    for pair in setting.pairs(data):
        finals = {"clean": pair.good.at["end"].final}
        finals |= {name: sufficiency_of(setting.model, pair, heads, mlps) for name, (heads, mlps) in jobs.items()}
        for key, final in finals.items():
            found[key].put(setting, final, pair.yy, data.direction, pair.rows)
    yy, clean = data.rows["yy"].to_numpy(), found["clean"]
    both = {d: float(probability_difference(torch.from_numpy(clean.p), data.yy.cpu(), d).double().mean()) for d in ("gt", "lt")}
    base = float(clean.pd.mean())
    shared = {"task": task, "variant": variant, "n": len(data), "baseline_pd_gt": both["gt"], "baseline_pd_lt": both["lt"]}
    shared |= {"baseline_cs": float(clean.cs.mean()), "top1_valid": _valid(setting, clean, yy, data.direction)}
    shared["exact_match"] = _exact(setting, clean, yy) if task == 4 else np.nan
    rows = [
        shared | {"circuit": name, "circuit_pd": float(found[name].pd.mean()), "recovery": float(found[name].pd.mean()) / base}
        for name in jobs
    ]
    return rows, heatmap_rows(data.name, "task", "clean", clean.p, yy)


def _valid(setting: Setting, scores: Scores, yy: np.ndarray, direction: str) -> float:
    years = {int(token): year for year, token in enumerate(setting.ids.tolist())}
    found = np.array([years.get(int(token), -1) for token in scores.top])
    right = found > yy if direction == "gt" else (found < yy) & (found >= 0)
    return float(right.mean())


def _exact(setting: Setting, scores: Scores, yy: np.ndarray) -> float:
    """Return how often the next year of an arithmetic progression is the top token; those beyond the century do not count."""
    answers = np.array([y + step_of(int(y)) for y in yy])
    inside = answers < 100
    ids = setting.ids.cpu().numpy()
    return float((scores.top[inside] == ids[answers[inside]]).mean())


def tasks(setting: Setting, nodes: pd.DataFrame, log: Log) -> dict[str, pd.DataFrame]:
    """Return the tables ``gt_tasks``, ``year_heatmap`` and ``ipp`` of the tasks that the tokenizer allows."""
    rows, heatmaps, stages = [], [], []
    first = min(YearCircuit.of(nodes).mlps)
    for name in (n for n in setting.datasets if n.startswith("T")):
        number, _, variant = name[1:].partition("_")
        data = setting.data(name)
        new, heatmap = run_task(setting, data, int(number), variant or "fixed", nodes)
        rows += new
        heatmaps.append(heatmap)
        if not variant:
            wanted = {"logits": end_stages(setting.model)["logits"]}
            if int(number) in SUCCESSES:
                wanted |= mlp_stages(setting.model, [first, *((first - 1,) if number == "2" and first else ())])
            stages.append(stage_table(setting, data, wanted))
        log(f"{name}: probability difference {new[0]['baseline_pd_gt']:+.3f}, recovered {100 * new[0]['recovery']:.1f} %")
    frames = {"gt_tasks": pd.DataFrame(rows), "year_heatmap": pd.concat(heatmaps), "ipp": pd.concat(stages)}
    return {key: frame.reset_index(drop=True) for key, frame in frames.items()}
