"""Full-batch training against a plain loop over transformers' model in float64, and runs that were stopped and went on."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from recircuit.core.errors import UserError
from recircuit.core.gpt2 import gpt2_state
from recircuit.experiments.circuit_probing.training import recipe_of, start_of, train_rows
from recircuit.methods.full_batch import Recipe, Rows, train
from recircuit.study.resume import key_of, load_progress, partial_path, read_checkpoints, save_progress, write_checkpoints
from recircuit.tasks.arithmetic import rows_table
from unit.test_one_layer import ours, random_model, random_rows

KEY, OTHER = key_of({"epochs": 7}, 0), key_of({"epochs": 8}, 0)


class Killed(Exception):
    """What ends a training run in the middle."""


def silent(line: str) -> None:
    """Say nothing."""


def data(n, seed, context=3):
    rows = random_rows(n, context, seed)
    return rows, (rows[:, -3] ** 2 + rows[:, -2]) % 113


def literal(theirs, train_data, test_data, recipe):
    """Train transformers' model epoch by epoch; return the curves and the weights after each epoch."""
    optimizer = torch.optim.AdamW(
        theirs.parameters(), lr=1e-3, betas=(0.9, 0.98), eps=1e-8, weight_decay=1.0, fused=False, foreach=False
    )
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=10)
    curves, states = {}, {}

    def scores(rows, answers):
        logits = theirs(rows).logits[:, -1].double()
        return F.cross_entropy(logits, answers), (logits.argmax(1) == answers).double().mean()

    def note(epoch, series, loss, accuracy):
        curves.update({(epoch, series, "loss"): loss.item(), (epoch, series, "accuracy"): accuracy.item()})

    note(0, "test", *scores(*test_data))
    for epoch in range(1, recipe.epochs + 1):
        before = scores(*train_data)
        optimizer.zero_grad()
        before[0].backward()
        optimizer.step()
        schedule.step()
        if epoch == 1:
            note(0, "train", *before)
        if epoch % recipe.evaluate_every == 0:
            note(epoch, "train", *before)
            note(epoch, "test", *scores(*test_data))
        states[epoch] = {name: tensor.clone() for name, tensor in theirs.state_dict().items()}
    return curves, states


@pytest.mark.parametrize("recipe", [Recipe(3, 1, {1, 3}), Recipe(13, 4, {12, 13})], ids=["three", "past the warm-up"])
def test_training_equals_a_plain_loop(recipe):
    theirs, train_data, test_data = random_model(), data(80, 1), data(60, 2)
    start = ours(theirs)
    found = train(start, *(Rows.of(*part, "cpu") for part in (train_data, test_data)), recipe, silent)
    curves, states = literal(theirs, train_data, test_data, recipe)
    assert len(found.curves) == len(curves)
    for epoch, series, metric, value in found.curves:
        assert value == pytest.approx(curves[epoch, series, metric], abs=1e-10), (epoch, series, metric)
    assert found.epoch == recipe.epochs and set(found.checkpoints) == set(recipe.checkpoints)
    for epoch, weights in {**found.checkpoints, recipe.epochs: found.weights}.items():
        for name, tensor in weights.items():
            assert (tensor - states[epoch][name]).abs().max() < 1e-10, (epoch, name)
    moved = max((found.weights[name] - tensor).abs().max() for name, tensor in gpt2_state(start).items())
    assert moved > 1e-3  # the start itself is as it was


def test_rows_of_two_tasks_are_trained_on_together():
    theirs, recipe = random_model(116, 5), Recipe(2, 1, {2})
    train_data, test_data = data(70, 3, 5), data(50, 4, 5)
    found = train(ours(theirs), *(Rows.of(*part, "cpu") for part in (train_data, test_data)), recipe, silent)
    _, states = literal(theirs, train_data, test_data, recipe)
    assert max((tensor - states[2][name]).abs().max() for name, tensor in found.weights.items()) < 1e-10


def test_the_recipe_and_the_rows_of_an_experiment():
    recipe = recipe_of({"epochs": 20, "evaluate_every": 5, "checkpoints": [5, 10]})
    assert (recipe.epochs, recipe.evaluate_every, recipe.checkpoints) == (20, 5, {5, 10, 20})
    assert (recipe.learning_rate, recipe.weight_decay, recipe.betas) == (1e-3, 1.0, (0.9, 0.98))
    table = rows_table("shared_nodes")
    for split, rows in zip(("train", "test"), train_rows(table, "cpu"), strict=True):
        part = table[table["split"] == split].sort_values(["task", "row"])
        tokens = rows.table.tokens[rows.table.index]
        assert (tokens.numpy() == part[[f"t{i}" for i in range(5)]].to_numpy()).all()
        assert (rows.answers.numpy() == part["answer"].to_numpy()).all()


# ---- stopped and gone on -------------------------------------------------------------------------------------------------


@pytest.fixture
def case():
    """A run of seven epochs in float32, as it is in practice."""
    rows = [Rows.of(*data(n, seed), "cpu") for n, seed in ((60, 5), (40, 6))]
    return start_of("disambiguation", 0), *rows, Recipe(7, 2, {2, 4, 6, 7})


def stopped(case, path, epoch):
    """Train with a save at every epoch, and die when one is written."""

    def save(progress):
        save_progress(path, KEY, progress)
        if progress.epoch == epoch:
            raise Killed

    with pytest.raises(Killed):
        train(*case, silent, save=save, save_every=1)


def same(a, b):
    assert a.epoch == b.epoch and a.curves == b.curves
    assert a.checkpoints.keys() == b.checkpoints.keys()
    pairs = [(a.weights, b.weights), (a.moments, b.moments)]
    for x, y in pairs + [(a.checkpoints[epoch], b.checkpoints[epoch]) for epoch in a.checkpoints]:
        assert x.keys() == y.keys()
        assert all(torch.equal(x[name], y[name]) for name in x)


@pytest.mark.parametrize("epoch", [1, 2, 5])
def test_a_stopped_run_goes_on_to_the_same_end(case, tmp_path, epoch):
    whole, path = train(*case, silent), partial_path(str(tmp_path / "out" / "model.safetensors"), 0)
    stopped(case, path, epoch)
    left = load_progress(path, KEY)
    assert left.epoch == epoch < whole.epoch
    assert not all(torch.equal(left.weights[name], whole.weights[name]) for name in whole.weights)
    same(train(*case, silent, resume=left), whole)


def test_a_run_that_is_stopped_twice_goes_on_to_the_same_end(case, tmp_path):
    whole, path = train(*case, silent), tmp_path / "partial"
    stopped(case, path, 2)

    def save(progress):
        save_progress(path, KEY, progress)
        raise Killed

    with pytest.raises(Killed):
        train(*case, silent, resume=load_progress(path, KEY), save=save, save_every=5)
    assert load_progress(path, KEY).epoch == 5
    same(train(*case, silent, resume=load_progress(path, KEY)), whole)


def test_a_save_changes_nothing_and_is_due_only_before_the_end(case):
    epochs = []
    whole = train(*case, silent, save=lambda progress: epochs.append(progress.epoch), save_every=2)
    assert epochs == [2, 4, 6]
    same(whole, train(*case, silent))


def test_progress_of_another_recipe_is_not_resumed(case, tmp_path):
    stopped(case, tmp_path / "partial", 3)
    assert len({KEY, OTHER, key_of({"epochs": 7}, 1)}) == 3
    assert load_progress(tmp_path / "partial", OTHER) is None
    assert load_progress(tmp_path / "nothing", KEY) is None


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_damaged_progress_is_ignored(case, tmp_path, share):
    path = tmp_path / "partial"
    stopped(case, path, 3)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert load_progress(path, KEY) is None
    path.write_bytes(whole)
    assert load_progress(path, KEY).epoch == 3


def test_the_partial_file_of_each_seed_is_its_own():
    names = {partial_path("out/model.safetensors", seed).name for seed in range(3)}
    assert len(names) == 3 and all(name.startswith(".model.") for name in names)


def test_a_longer_recipe_begins_alike(case):
    *rows, recipe = case
    short, long = train(*rows, replace(recipe, epochs=4), silent), train(*rows, recipe, silent)
    assert all(torch.equal(short.weights[name], long.checkpoints[4][name]) for name in short.weights)
    assert long.curves[: len(short.curves)] == short.curves


def test_checkpoints_come_back_as_they_were_written(case, tmp_path):
    start, path = case[0], str(tmp_path / "checkpoints.safetensors")
    kept = {(seed, epoch): {n: t + seed + epoch for n, t in gpt2_state(start).items()} for seed in (0, 1) for epoch in (5, 10)}
    write_checkpoints(path, start, kept, {"rule": "a_rule"})
    found = read_checkpoints(path)
    assert set(found.weights) == set(kept) and found.model(1, 5).spec == start.spec
    assert all(torch.equal(found.weights[key][name], tensor) for key in kept for name, tensor in kept[key].items())
    assert torch.equal(found.last(0).tokens, start.tokens + 10)
    whole = (tmp_path / "checkpoints.safetensors").read_bytes()
    (tmp_path / "checkpoints.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"checkpoints\.safetensors is damaged .*; delete it"):
        read_checkpoints(path)
