"""Exp. 1 to 3: masks for every variable and component of an arithmetic model, read out and ablated."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from recircuit.core.stats import stream
from recircuit.experiments.circuit_probing.arithmetic import COMPONENTS, Run
from recircuit.methods.masks import (
    Cached,
    LoaderOrder,
    Mask,
    Recipe,
    batches,
    kept_weights,
    mean_loss,
    random_mask,
    train_mask,
)
from recircuit.methods.neighbours import accuracy, prototype_rows
from recircuit.runs.progress import Countdown

MATRICES = {"attn": ("c_attn", "c_proj"), "mlp": ("c_fc", "c_proj")}
FRAMES = 9  # epochs whose gates are drawn, evenly spread from the first on, beside the full model
CLASSES, PER_CLASS, DRAWS = 10, 5, 20


@dataclass(frozen=True)
class Readout:
    """Accuracies of the nearest prototype: the authors' single draw, and the mean and deviation over 20 draws."""

    dev: float
    test: float
    mean: float
    sd: float


@torch.inference_mode()
def read_out(train: Tensor, labels: Tensor, test: Tensor, test_labels: Tensor, order: Tensor, seed: int) -> Readout:
    """Read a variable off updates by one prototype per class, drawn from the training rows in loader order (spec 3.2)."""
    x, y = train[order], labels[order]
    first = prototype_rows(y.cpu().numpy(), np.random.RandomState(seed))
    dev = torch.ones(len(y), dtype=torch.bool, device=y.device).index_fill_(0, torch.as_tensor(first, device=y.device), 0)
    scores = [accuracy(x[first], y[first], x[dev], y[dev]), accuracy(x[first], y[first], test, test_labels)]
    rng = np.random.RandomState(int(stream(seed, "prototypes").integers(2**32)))
    draws = []
    for _ in range(DRAWS):
        rows = prototype_rows(y.cpu().numpy(), rng)
        draws.append(accuracy(x[rows], y[rows], test, test_labels))
    return Readout(*scores, float(np.mean(draws)), float(np.std(draws)))


@dataclass
class Tables:
    """Rows of the three tables that this experiment makes."""

    runs: list[dict]
    masks: list[pd.DataFrame]
    ablations: list[dict]
    frames: list[pd.DataFrame]

    def frame(self, name: str) -> pd.DataFrame:
        """Return one of the tables."""
        rows = getattr(self, name)
        return pd.concat(rows, ignore_index=True) if name in ("masks", "frames") else pd.DataFrame(rows)


def probe_all(
    runs: Iterable[Run], recipe: Recipe, seed: int, log: Callable[[str], None], *, draws: int, pictured: int
) -> Tables:
    """Train and test a mask for every task, variable and component of every checkpoint.

    ``draws`` random circuits are ablated beside each circuit; frames are kept for the checkpoint of epoch ``pictured``.
    """
    tables = Tables([], [], [], [])
    for run in runs:
        masks = sum(len(run.parts[task, "train"].values) for task in run.tasks) * len(COMPONENTS)
        countdown = Countdown(masks, log, f"seed {run.seed} epoch {run.epoch}: masks")
        for task in run.tasks:
            _vanilla(run, task, tables)
            for component in COMPONENTS:
                blocks = {split: run.block(task, split, component) for split in ("train", "test")}
                for variable in run.parts[task, "train"].values:
                    found = probe(run, task, variable, component, blocks, recipe, seed, tables, draws, run.epoch == pictured)
                    log(
                        f"seed {run.seed} epoch {run.epoch} task {task} {variable} {component}: "
                        f"KNN {found['knn_test']:.3f}, kept {found['kept_fraction']:.3f}"
                    )
                    countdown.step()
    return tables


def _vanilla(run: Run, task: int, tables: Tables) -> None:
    part = run.parts[task, "test"]
    hits = float((run.last(task, "test").logits.argmax(1) == part.answers).double().mean())
    facts = {"task": task, "variable": "", "component": "", "condition": "vanilla", "matrices": "", "eval_task": task}
    tables.ablations.append({**run.facts, **facts, "draw": 0, "accuracy": hits, "outside": None, "n": len(part.answers)})


def probe(
    run: Run,
    task: int,
    variable: str,
    component: str,
    blocks: dict[str, Cached],
    recipe: Recipe,
    seed: int,
    tables: Tables,
    draws: int,
    pictured: bool,
) -> dict:
    """Train one mask, append its rows to the tables and return the row of ``cp_runs``."""
    labels = {split: run.parts[task, split].values[variable] for split in blocks}
    facts = {**run.facts, "task": task, "variable": variable, "component": component}
    pictures = Pictures(blocks["train"], labels["train"], seed, recipe.epochs) if pictured else None
    scores = train_mask(blocks["train"], labels["train"], recipe, seed, pictures)
    if pictures is not None:
        tables.frames.append(pictures.table().assign(**facts))
    hard = scores.hard()
    row = facts | score(blocks, labels, hard, recipe, seed)
    tables.runs.append(row)
    tables.masks.append(columns(scores, component).assign(**facts))
    for found in ablations(run, task, component, hard, draws, stream(seed, "ablate", variable, component, task)):
        tables.ablations.append(facts | found)
    return row


def score(blocks: dict[str, Cached], labels: dict[str, Tensor], hard: Mask, recipe: Recipe, seed: int) -> dict:
    """Return losses, read-outs and sizes of a hard mask."""
    device = labels["train"].device
    order = LoaderOrder(seed).shuffled(len(blocks["train"])).to(device)
    used = torch.cat(list(batches(order, recipe.batch)))
    rows = torch.arange(len(blocks["test"]), device=device)
    losses = {
        "train_loss": mean_loss(blocks["train"], labels["train"], hard, order, recipe.batch, drop=True),
        "test_loss": mean_loss(blocks["test"], labels["test"], hard, rows, recipe.batch, drop=False),
    }
    full = Mask(*(torch.ones_like(part) for part in hard))
    found = {}
    for prefix, mask in (("", hard), ("full_", full)):
        with torch.inference_mode():
            train, test = (blocks[split].update(slice(None), mask) for split in ("train", "test"))
        seen = read_out(train, labels["train"], test, labels["test"], used, seed)
        found |= {f"{prefix}knn_dev": seen.dev, f"{prefix}knn_test": seen.test}
        found |= {f"{prefix}knn_mean": seen.mean, f"{prefix}knn_sd": seen.sd}
    kept, most = kept_weights(blocks["train"], hard)
    sizes = {"kept_weights": kept, "max_weights": most, "kept_fraction": kept / most}
    sizes |= {"kept_first": int(hard.first.sum()), "n_first": len(hard.first)}
    sizes |= {"kept_second": int(hard.second.sum()), "n_second": len(hard.second)}
    majority = float((labels["test"] == labels["train"].min()).double().mean())
    return {**losses, **found, **sizes, "majority": majority, "n_train": len(used), "n_test": len(rows)}


def columns(scores: Mask, component: str) -> pd.DataFrame:
    """Return every column's score and whether it is kept; attention's first matrix has queries, keys and values in turn."""
    parts = [
        pd.DataFrame({"matrix": matrix, "column": range(len(part)), "score": part.cpu().numpy()})
        for matrix, part in zip(MATRICES[component], scores, strict=True)
    ]
    table = pd.concat(parts, ignore_index=True)
    return table.assign(kept=table["score"] > 0)


def ablations(run: Run, task: int, component: str, hard: Mask, draws: int, rng: np.random.Generator) -> Iterator[dict]:
    """Yield the accuracy of each task under every condition.

    ``circuit`` ablates weights as published, of both matrices or of one; ``activations`` ablates the columns' biases too,
    ``read_position`` the columns at the last position alone (spec 7.5); ``kept`` leaves the circuit only; ``random``
    ablates as many random columns.
    """
    ones = Mask(*(torch.ones_like(part) for part in hard))
    gone, names = hard.complement(), MATRICES[component]
    jobs = [("circuit", "all", gone, 0, None), ("kept", "all", hard, 0, None)]
    jobs += [("circuit", name, replace_part(ones, gone, i), 0, None) for i, name in enumerate(names)]
    jobs += [(condition, "all", gone, 0, None) for condition in ("activations", "read_position")]
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    for draw in range(draws):
        chosen, outside = random_mask(hard, generator)
        jobs.append(("random", "all", chosen.complement(), draw, outside))
    for other in run.tasks:
        block = run.block(other, "test", component)
        ways = {"activations": block.update_without_biases, "read_position": block.update_here}
        for condition, matrices, mask, draw, outside in jobs:
            with torch.inference_mode():
                update = ways.get(condition, block.update)(slice(None), mask)
            facts = {"condition": condition, "matrices": matrices, "eval_task": other, "draw": draw}
            hits = run.accuracy_with(other, "test", component, update)
            yield {**facts, "accuracy": hits, "outside": outside, "n": len(block)}


def replace_part(mask: Mask, other: Mask, i: int) -> Mask:
    """Return a mask with its first or its second part taken from another."""
    return mask._replace(**{mask._fields[i]: other[i]})


class Pictures:
    """Principal components of updates while a mask is trained: ten classes, five rows of each (spec 7.17)."""

    def __init__(self, block: Cached, labels: Tensor, seed: int, epochs: int) -> None:
        self.every = max(1, epochs // FRAMES)
        rng = stream(seed, "pictures")
        values = labels.cpu().numpy()
        self.classes = np.sort(rng.choice(np.unique(values), min(CLASSES, len(np.unique(values))), replace=False))
        where = [np.flatnonzero(values == value) for value in self.classes]
        self.rows = np.concatenate([rng.choice(found, min(PER_CLASS, len(found)), replace=False) for found in where])
        self.block, self.labels = block, values[self.rows]
        self.parts = [self._frame(-1, Mask(*(torch.ones(n, device=labels.device) for n in block.n_columns)))]

    def __call__(self, epoch: int, gates: Mask) -> None:
        """Keep the frame of an epoch."""
        if epoch % self.every == 0 and epoch < FRAMES * self.every:
            self.parts.append(self._frame(epoch, gates))

    @torch.inference_mode()
    def _frame(self, epoch: int, gates: Mask) -> pd.DataFrame:
        u = self.block.update(torch.as_tensor(self.rows, device=gates.first.device), gates).double()
        u = u - u.mean(0)
        _, _, axes = torch.linalg.svd(u, full_matrices=False)
        axes = axes[:2] * axes[:2].gather(1, axes[:2].abs().argmax(1, keepdim=True)).sign()  # a sign that repeats
        points = (u @ axes.T).cpu().numpy()
        return pd.DataFrame({"frame": epoch, "row": self.rows, "value": self.labels, "pc1": points[:, 0], "pc2": points[:, 1]})

    def table(self) -> pd.DataFrame:
        """Return all frames; -1 is the model without a mask."""
        return pd.concat(self.parts, ignore_index=True)
