"""Boundless DAS on the arithmetic models: is there a subspace whose exchange exchanges a variable (spec 3.7)?"""

from collections.abc import Callable, Iterable

import pandas as pd
import torch

from recircuit.core.stats import stream
from recircuit.experiments.circuit_probing.arithmetic import COMPONENTS, Run
from recircuit.methods.alignment import Pairs, Recipe, Report, align, published_rows
from recircuit.runs.progress import counted

ROWS = 2500  # training rows; the authors set a thousand more aside


def align_all(
    runs: Iterable[Run], recipe: Recipe, seed: int, log: Callable[[str], None], *, without: tuple[str, ...] = ()
) -> pd.DataFrame:
    """Return the table ``cp_alignments``: interchange accuracy along training, per task, variable and component."""
    rows = []
    for run in runs:
        for task in run.tasks:
            for component in COMPONENTS:
                sought = [v for v in run.parts[task, "train"].cf_answers if v not in without]
                what = f"seed {run.seed} epoch {run.epoch} task {task} {component}: variables"
                for variable in counted(sought, log, what):
                    facts = {**run.facts, "task": task, "variable": variable, "component": component}
                    reports = _one(run, task, component, variable, recipe, seed)
                    rows += [facts | report._asdict() for report in reports]
                    log(" ".join(f"{k} {v}" for k, v in facts.items()) + f": interchange accuracy {reports[-1].iia:.3f}")
    return pd.DataFrame(rows)


def _one(run: Run, task: int, component: str, variable: str, recipe: Recipe, seed: int) -> list[Report]:
    pairs = {}
    for split in ("train", "test"):
        streams = (run.stream(task, split, component, partners=partners) for partners in (False, True))
        pairs[split] = Pairs(*streams, run.parts[task, split].cf_answers[variable])
    (chosen,) = published_rows(len(pairs["train"].base), [ROWS])
    rows = chosen.to(pairs["train"].base.device)
    train = Pairs(*(part[rows] for part in pairs["train"]))
    rng = torch.Generator().manual_seed(int(stream(seed, "rotation", task, component, variable).integers(2**62)))
    return align(lambda x: run.logits_from(component, x), train, pairs["test"], recipe, rng)[1]
