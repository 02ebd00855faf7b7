"""Distributed alignment search on the toy sets: every layer, several dimensions, both kinds side by side (spec 3.1)."""

from collections.abc import Iterator, Sequence
from itertools import groupby, product
from typing import NamedTuple

import pandas as pd
import torch

from recircuit.core.model import Spec
from recircuit.experiments.sentiment.fits import ADJECTIVE, VERB, Labelled, by_midpoint, midpoint_rows, training_sets
from recircuit.experiments.sentiment.setting import TEST, TRAIN, Log, Setting, Toy
from recircuit.methods.direction_das import Batch, Found, Kind, Recipe, batches_at, search
from recircuit.methods.direction_hooks import centred_width
from recircuit.methods.directions import orient
from recircuit.tasks.sentiment import fit_position

METHOD_NAMES = {1: "das", 2: "das2d", 3: "das3d"}
SWEEP = (1, 2, 4, 8, 16)
# Prompts of a step by layers times width: those of the released code for the models of its list.
BATCHES = ((9_216, 128), (24_576, 64), (49_152, 32), (81_920, 8))
LARGEST = 4


class Task(NamedTuple):
    """One search: on which prompts, at which layer, for how many dimensions, by which parameters, from which start."""

    set: str
    split: str
    variant: str
    layer: int
    dims: int = 1
    kind: Kind = "frame"
    seed: int = 0


def batch_size(spec: Spec) -> int:
    """Return how many prompts make a step, as published for models of this size."""
    return next((size for limit, size in BATCHES if spec.n_layers * spec.d_model <= limit), LARGEST)


def sweep_layers(n_layers: int) -> list[int]:
    """Return the layers at which all numbers of dimensions are tried: the middle (published), and the embedding."""
    return sorted({0, n_layers // 2})


def tasks(setting: Setting, seeds: Sequence[int]) -> list[Task]:
    """Return every search. Layer L has none: what is patched there does not reach the answer.

    Reviews of the paper's variant have one to three dimensions, at every seed; all other prompts have one, at the lowest seed.
    """
    spec, first = setting.model.spec, min(seeds)
    reviews = (*TRAIN, "paper")
    every = product(range(spec.n_layers), METHOD_NAMES, seeds)
    found = {Task(*reviews, layer, dims, seed=seed) for layer, dims, seed in every}
    for layer in sweep_layers(spec.n_layers):
        found |= {Task(*reviews, layer, dims, seed=first) for dims in SWEEP}
        found.add(Task(*reviews, layer, 1, "rotation", first))
    others = (key for key in training_sets(setting) if key != reviews)
    found |= {Task(*key, layer, seed=first) for key in others for layer in range(spec.n_layers)}
    return sorted(task for task in found if task.dims <= spec.d_model)


def batches(setting: Setting, toy: Toy, layer: int, position: str) -> list[Batch]:
    """Return the steps of one pass over some prompts, their vectors centred."""
    model, size, place = setting.model, batch_size(setting.model.spec), toy.place(position)
    parts = (toy.pairs.rows(slice(start, start + size)) for start in range(0, len(toy), size))
    found = (batches_at(model, part, [layer], place)[layer] for part in parts)
    return [
        batch._replace(clean=centred_width(model, batch.clean), corrupted=centred_width(model, batch.corrupted))
        for batch in found
    ]


def run(setting: Setting, seeds: Sequence[int], epochs: int, log: Log) -> Iterator[tuple[Task, Found]]:
    """Yield every search and what it found; the reviews of the test set are looked at where dimensions are compared."""
    for (*key, layer), group in groupby(tasks(setting, seeds), lambda task: task[:4]):
        toy, position = setting.toy(*key), fit_position(key[0])
        train = batches(setting, toy, layer, position)
        look = (*key,) == (*TRAIN, "paper") and layer in sweep_layers(setting.model.spec.n_layers)
        other = batches(setting, setting.toy(*TEST), layer, position) if look else ()
        for task in group:
            found = search(train, task.dims, Recipe(epochs=epochs, seed=task.seed), task.kind, other)
            log(f"{task.set}, {task.variant}, layer {layer}, d = {task.dims}, {task.kind}: loss {found.history[-1].train:.4f}")
            yield task, found


def searches(setting: Setting, seeds: Sequence[int], epochs: int, log: Log) -> dict[str, pd.DataFrame]:
    """Return ``se_directions``, ``se_das_history`` and ``se_fit_accuracy`` of all searches."""
    found = dict(run(setting, seeds, epochs, log))
    data, directions = {}, []
    for task, result in found.items():
        if task.kind == "frame" and task.dims in METHOD_NAMES:
            key = task[:3]
            if key not in data:
                data[key] = Labelled.of(setting, setting.toy(*key), fit_position(task.set))
            directions += direction_rows(task, result, data[key])
    directions = pd.DataFrame(directions)
    return {
        "se_directions": directions,
        "se_das_history": pd.DataFrame([row for task, result in found.items() for row in _history(task, result, found, log)]),
        "se_fit_accuracy": accuracies(setting, directions),
    }


def direction_rows(task: Task, found: Found, data: Labelled) -> list[dict]:
    """Return a row per column of a frame, each with positive prompts on its positive side; only one alone classifies."""
    x, positive = data.at(task.layer)
    turned = orient(found.frame.T.double().cpu(), x, positive)
    right = by_midpoint(turned.raw, Labelled(x, positive, ()), Labelled(x, positive, ())).double().mean(-1)
    return [
        {"set": task.set, "variant": task.variant, "position": fit_position(task.set), "method": METHOD_NAMES[task.dims],
         "layer": task.layer, "component": i, "d_das": task.dims, "vector": vector.float().numpy(),
         "raw_norm": float(vector.norm()), "sign_flipped": bool(turned.flipped[i]),
         "train_accuracy": float(right[i]) if task.dims == 1 else None, "n": len(positive), "seed": task.seed}
        for i, vector in enumerate(turned.raw)
    ]  # fmt: skip


def _history(task: Task, found: Found, others: dict[Task, Found], log: Log) -> Iterator[dict]:
    """Yield the losses step by step; the last row of a rotation, or of another seed, says how near it came to the frame."""
    first = task._replace(kind="frame", seed=min(other.seed for other in others))
    same = None if task == first else nearness(found.frame, others[first].frame)
    if same is not None:
        losses = " and ".join(f"{one.history[-1].train:.4f}" for one in (found, others[first]))
        name = f"layer {task.layer}, d = {task.dims}, {task.kind} of seed {task.seed}"
        log(f"{name}: |cos| {same:.4f} with the frame, losses {losses}")
    key = {"set": task.set, "variant": task.variant, "layer": task.layer, "d_das": task.dims, "kind": task.kind}
    for point in found.history:
        last = point.step == found.history[-1].step
        yield key | {"seed": task.seed, "step": point.step, "train_loss": point.train, "eval_loss": point.evaluation,
                     "nearness": same if last else None}  # fmt: skip


def nearness(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the smallest cosine between two subspaces [d k]; of two directions, |cos|."""
    return float(torch.linalg.svdvals(a.double().T @ b.double()).min())


def accuracies(setting: Setting, directions: pd.DataFrame) -> pd.DataFrame:
    """Return ``se_fit_accuracy`` of one-dimensional DAS on reviews, by the midpoint rule and the lowest seed."""
    rows = directions[(directions["method"] == "das") & (directions["set"] == TRAIN[0])]
    rows, found = rows[rows["seed"] == rows["seed"].min()], []
    for variant, part in rows.groupby("variant"):
        vectors = torch.stack([torch.tensor(vector) for vector in part.sort_values("layer")["vector"]]).double()
        train = _below(Labelled.of(setting, setting.toy(*TRAIN, variant), ADJECTIVE), len(vectors))
        for split, key, position in (("train", TRAIN, ADJECTIVE), ("test", TEST, ADJECTIVE), ("test", TEST, VERB)):
            test = _below(Labelled.of(setting, setting.toy(*key, variant), position), len(vectors))
            names = {"method": "das", "set": TRAIN[0], "variant": variant, "position": ADJECTIVE}
            found += midpoint_rows(names | {"test_set": split, "test_position": position}, vectors, train, test)
    return pd.DataFrame(found)


def _below(data: Labelled, layers: int) -> Labelled:
    return data._replace(x=data.x[:layers])
