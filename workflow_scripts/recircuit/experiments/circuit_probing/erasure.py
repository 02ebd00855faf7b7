"""Amnesic probing: what the model still can do when LEACE has erased a variable from its stream (spec 3.6)."""

from collections.abc import Callable, Iterable, Iterator

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from recircuit.core.stats import stream
from recircuit.experiments.circuit_probing.arithmetic import COMPONENTS, Run
from recircuit.methods.erasure import Eraser, published_leace, remove_components
from recircuit.methods.probes import fit_whole, probe_score
from recircuit.runs.progress import Countdown
from recircuit.tasks.arithmetic import P


def erase_all(
    runs: Iterable[Run], seed: int, steps: int, log: Callable[[str], None], *, splits: tuple[str, ...]
) -> pd.DataFrame:
    """Return the table ``cp_amnesic``: per task, variable, component and split, accuracies before and after erasure.

    The eraser is fitted on the rows that it then erases, as published, and is also applied to the other tasks' rows.
    ``leace`` is the package's, with its epsilon in float32, as published; ``leace_exact`` is without, in float64. Beside the
    former stands the removal of as many random directions. ``steps`` is how long the probes before and after are trained.
    """
    rows = []
    for run in runs:
        erasers = sum(len(run.parts[task, "train"].values) for task in run.tasks) * len(COMPONENTS)
        countdown = Countdown(erasers, log, f"seed {run.seed} epoch {run.epoch}: erasers")
        for task in run.tasks:
            for component in COMPONENTS:
                for variable in run.parts[task, "train"].values:
                    facts = {**run.facts, "task": task, "variable": variable, "component": component}
                    for split in splits:
                        rows += [facts | {"split": split} | row for row in _erased(run, facts, split, seed, steps)]
                    countdown.step()
        log(f"seed {run.seed} epoch {run.epoch}: erased")
    return pd.DataFrame(rows)


def _erased(run: Run, facts: dict, split: str, seed: int, steps: int) -> Iterator[dict]:
    task, component = facts["task"], facts["component"]
    x, y = run.stream(task, split, component), run.parts[task, split].values[facts["variable"]]
    eraser, exact = published_leace(x, F.one_hot(y, P)), published_leace(x.double(), F.one_hot(y, P), epsilon=False)
    rank = eraser.left.shape[0]
    control = random_directions(
        x, rank, torch.Generator().manual_seed(int(stream(seed, *facts.values(), split).integers(2**62)))
    )
    before = probe_score(fit_whole(x, y, P, seed, steps), x, y).accuracy
    for method, how in (("leace", eraser), ("leace_exact", exact), ("random", control)):
        erased = how(x)
        after = None if method == "random" else probe_score(fit_whole(erased, y, P, seed, steps), erased, y).accuracy
        for other in run.tasks:
            kept = accuracy_from(run, other, split, component, how(run.stream(other, split, component)))
            yield {
                "method": method, "eval_task": other, "probe_before": before, "probe_after": after, "accuracy": kept,
                "rank": how.left.shape[0], "n": len(x),
            }  # fmt: skip


def random_directions(x: Tensor, rank: int, rng: torch.Generator) -> Eraser:
    """Return the removal of random orthonormal directions, as many as LEACE erased."""
    axes = torch.linalg.qr(torch.randn(x.shape[1], max(rank, 1), generator=rng)).Q[:, :rank].T
    return remove_components(x.mean(0), axes.to(x))


@torch.inference_mode()
def accuracy_from(run: Run, task: int, split: str, component: str, patched: Tensor) -> float:
    """Return the accuracy of the model that goes on from patched streams."""
    answers = run.parts[task, split].answers
    return float((run.logits_from(component, patched).argmax(1) == answers).double().mean())
