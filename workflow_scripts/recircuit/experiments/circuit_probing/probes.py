"""Linear and non-linear probes of the streams of an arithmetic model, and counterfactual embeddings (spec 3.4, 3.5)."""

from collections.abc import Callable, Iterable, Iterator
from itertools import product

import pandas as pd
import torch

from recircuit.experiments.circuit_probing.arithmetic import COMPONENTS, SITES, Part, Run
from recircuit.methods.probes import counterfactual_embeddings, fit_probe, probe_score
from recircuit.runs.progress import counted
from recircuit.tasks.arithmetic import P

KINDS = ("linear", "nonlinear")


def probe_streams(runs: Iterable[Run], seed: int, epochs: int, log: Callable[[str], None]) -> pd.DataFrame:
    """Return the table ``cp_probes``, for every task, variable, component and kind of probe, each trained for ``epochs``."""
    rows = []
    for run in runs:
        for facts in counted(list(grid(run)), log, f"seed {run.seed} epoch {run.epoch}: probes"):
            probe, x, y = _fitted(run, facts, seed, epochs)
            row = {}
            for split in x:
                row[f"{split}_loss"], row[f"{split}_acc"] = probe_score(probe, x[split], y[split])
            rows.append(facts | row)
        log(f"seed {run.seed} epoch {run.epoch}: probes of {', '.join(SITES.values())} are fitted")
    return pd.DataFrame(rows)


def embed_streams(runs: Iterable[Run], seed: int, epochs: int, log: Callable[[str], None]) -> pd.DataFrame:
    """Return the table ``cp_embeddings``: what the model does with streams that a probe reads as another value.

    ``epochs`` is how long a probe is trained, and how many steps a stream then takes.
    """
    rows = []
    for run in runs:
        for facts in counted(list(grid(run)), log, f"seed {run.seed} epoch {run.epoch}: embeddings"):
            part = run.parts[facts["task"], "test"]
            if facts["variable"] in part.cf_answers:
                probe, x, _ = _fitted(run, facts, seed, epochs)
                rows.append(facts | embed(run, facts["component"], probe, x["test"], part, facts["variable"], epochs))
        log(f"seed {run.seed} epoch {run.epoch}: counterfactual embeddings are found")
    return pd.DataFrame(rows)


def grid(run: Run) -> Iterator[dict]:
    """Yield the key of every probe of a checkpoint."""
    for task, component in product(run.tasks, COMPONENTS):
        for variable, kind in product(run.parts[task, "train"].values, KINDS):
            yield {**run.facts, "task": task, "variable": variable, "component": component, "kind": kind}


def _fitted(run: Run, facts: dict, seed: int, epochs: int) -> tuple[torch.nn.Module, dict, dict]:
    task, component = facts["task"], facts["component"]
    x = {split: run.stream(task, split, component) for split in ("train", "test")}
    y = {split: run.parts[task, split].values[facts["variable"]] for split in x}
    return fit_probe(facts["kind"], x["train"], y["train"], P, seed, epochs), x, y


@torch.no_grad()
def embed(run: Run, component: str, probe: torch.nn.Module, x: torch.Tensor, part: Part, variable: str, steps: int) -> dict:
    """Move the streams so that the probe reads the partner's value, patch them in and see which answer the model gives.

    Only rows whose answer should change count. ``mean_logit_ratio`` is the mean of (logit of the counterfactual answer less
    that of the original one) after patching, divided by the same before.
    """
    changed = (part.cf_answers[variable] != part.answers).nonzero().flatten()
    before, wanted = x[changed], part.cf_values[variable][changed]
    with torch.enable_grad():
        after = counterfactual_embeddings(probe, before, wanted, steps)
    answers = torch.stack([part.cf_answers[variable][changed], part.answers[changed]], 1)
    differences, given = [], None
    for stream in (before, after):
        logits = run.logits_from(component, stream)
        given, pair = logits.argmax(1), logits.double().gather(1, answers)
        differences.append(pair[:, 0] - pair[:, 1])
    return {
        "success": float((probe(after).argmax(1) == wanted).double().mean()),
        "predicts_cf": float((given == answers[:, 0]).double().mean()),
        "predicts_original": float((given == answers[:, 1]).double().mean()),
        "mean_logit_ratio": float((differences[1] / differences[0]).mean()),
        "n": len(changed),
    }
