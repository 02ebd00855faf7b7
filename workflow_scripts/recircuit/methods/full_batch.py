"""Full-batch training of the one-layer models (spec 1.2): one AdamW step per epoch on all rows, resumable at any epoch.

The loss is the cross-entropy of the last position, with logits in float64. Metrics follow the authors' convention: those of the
test rows at epoch E are after E updates, those of the training rows are of update E's own forward pass, before it changes
anything; epoch 0 is the untrained model for both.
"""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from recircuit.core.gpt2 import gpt2, gpt2_config, gpt2_state
from recircuit.core.model import Model, map_tensors
from recircuit.methods.one_layer import Table, run_last
from recircuit.methods.training import leaves_of

WARM = 10  # updates over which the learning rate rises from a third to all of it
Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Recipe:
    """Epochs, AdamW's rate and decay (of every parameter), how often the test rows are looked at, and what is kept."""

    epochs: int
    evaluate_every: int
    checkpoints: Collection[int]
    learning_rate: float = 1e-3
    weight_decay: float = 1.0
    betas: tuple[float, float] = (0.9, 0.98)


@dataclass(frozen=True)
class Rows:
    """Rows of one split with their answers."""

    table: Table
    answers: Tensor

    @classmethod
    def of(cls, tokens: Tensor, answers: Tensor, device: torch.device | str) -> "Rows":
        """Build the table of the rows."""
        return cls(Table.of(tokens).to(device), answers.to(device))


@dataclass
class Progress:
    """Where a training run stands: epochs done, weights, AdamW's moments, metrics so far and the checkpoints kept."""

    epoch: int
    weights: Weights
    moments: Weights = field(default_factory=dict)
    curves: list[tuple[int, str, str, float]] = field(default_factory=list)  # epoch, series, metric, value
    checkpoints: dict[int, Weights] = field(default_factory=dict)


def model_of(weights: Mapping[str, Tensor], config: Mapping) -> Model:
    """Return the model of stored weights, as ``gpt2_state`` names them; ``config`` is its ``gpt2_config``."""
    return gpt2(dict(config), lambda name, *shape: weights[f"transformer.{name}"])


def metrics(logits: Tensor, answers: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean cross-entropy in float64, and the share of rows whose answer is the largest logit."""
    return F.cross_entropy(logits.double(), answers), (logits.argmax(1) == answers).double().mean()


@torch.inference_mode()
def evaluate(model: Model, rows: Rows) -> tuple[float, float]:
    """Return loss and accuracy on rows."""
    loss, accuracy = metrics(run_last(model, rows.table).logits, rows.answers)
    return float(loss), float(accuracy)


def train(
    start: Model,
    train_rows: Rows,
    test_rows: Rows,
    recipe: Recipe,
    log: Callable[[str], None],
    *,
    resume: Progress | None = None,
    save: Callable[[Progress], None] | None = None,
    save_every: int = 100,
) -> Progress:
    """Train a model and return its final progress; from a ``resume`` that ``save`` got the result is the same, bit by bit."""
    config = gpt2_config(start)
    model, leaves = leaves_of(start if resume is None else model_of(resume.weights, config).to(device=start.device))
    parameters = list(leaves.values())
    optimizer = torch.optim.AdamW(
        parameters, lr=recipe.learning_rate, betas=recipe.betas, weight_decay=recipe.weight_decay, fused=True
    )
    progress = resume or Progress(0, {})
    if resume is not None:
        _set_moments(optimizer, parameters, resume)
        log(f"goes on after epoch {resume.epoch}")
    began, first = time.monotonic(), progress.epoch
    while progress.epoch < recipe.epochs:
        _step(model, train_rows, test_rows, recipe, optimizer, progress)
        if progress.epoch in recipe.checkpoints:
            progress.checkpoints[progress.epoch] = _state(model)
        if save is not None and (progress.epoch % save_every == 0 and progress.epoch < recipe.epochs):
            save(_with_state(progress, model, optimizer, parameters))
        if progress.epoch % max(recipe.evaluate_every, 100) == 0 or progress.epoch == recipe.epochs:
            _report(progress, recipe, time.monotonic() - began, first, log)
    return _with_state(progress, model, optimizer, parameters)


def _step(model: Model, train_rows: Rows, test_rows: Rows, recipe: Recipe, optimizer, progress: Progress) -> None:
    """One update, and the metrics that are due before and after it."""
    if progress.epoch == 0:
        _note(progress, "test", *evaluate(model, test_rows))
    for group in optimizer.param_groups:
        group["lr"] = recipe.learning_rate * (1 + 2 * min(progress.epoch, WARM) / WARM) / 3
    optimizer.zero_grad()
    loss, accuracy = metrics(run_last(model, train_rows.table).logits, train_rows.answers)
    loss.backward()
    optimizer.step()
    found = float(loss.detach()), float(accuracy)
    if progress.epoch == 0:
        _note(progress, "train", *found)
    progress.epoch += 1
    if progress.epoch % recipe.evaluate_every == 0:
        _note(progress, "train", *found)
        _note(progress, "test", *evaluate(model, test_rows))


def _note(progress: Progress, series: str, loss: float, accuracy: float) -> None:
    progress.curves += [(progress.epoch, series, "loss", loss), (progress.epoch, series, "accuracy", accuracy)]


def _report(progress: Progress, recipe: Recipe, spent: float, first: int, log: Callable[[str], None]) -> None:
    last = {(series, metric): value for _, series, metric, value in progress.curves[-4:]}
    left = spent / (progress.epoch - first) * (recipe.epochs - progress.epoch)
    numbers = "  ".join(f"{s} loss {last[s, 'loss']:.4f} accuracy {last[s, 'accuracy']:.4f}" for s in ("train", "test"))
    log(f"epoch {progress.epoch}/{recipe.epochs}  {numbers}  {spent:.0f} s spent, {left:.0f} s left")


def _state(model: Model) -> Weights:
    return {name: tensor.cpu().clone() for name, tensor in gpt2_state(map_tensors(model, Tensor.detach)).items()}


def _with_state(progress: Progress, model: Model, optimizer, parameters: list[Tensor]) -> Progress:
    progress.weights = _state(model)
    progress.moments = {
        f"{i}.{name}": optimizer.state[p][name].detach().cpu().clone()
        for i, p in enumerate(parameters)
        for name in ("exp_avg", "exp_avg_sq", "step")
    }
    return progress


def _set_moments(optimizer, parameters: list[Tensor], progress: Progress) -> None:
    for i, p in enumerate(parameters):
        names = ("exp_avg", "exp_avg_sq", "step")
        optimizer.state[p] = {name: progress.moments[f"{i}.{name}"].to(p.device).clone() for name in names}
