"""Masks of circuit probing against transformers' models with scaled columns, autograd and a real DataLoader, in float64."""

from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.func import functional_call
from torch.utils.data import DataLoader, TensorDataset

from recircuit.experiments.circuit_probing.arithmetic import Part, Run, cached_attention
from recircuit.experiments.circuit_probing.masks import MATRICES, Pictures, ablations
from recircuit.methods.masks import (
    CachedMlp,
    LoaderOrder,
    Mask,
    Recipe,
    batches,
    kept_weights,
    mean_loss,
    neighbour_loss,
    random_mask,
    train_mask,
)
from recircuit.tasks.arithmetic import rows_table, variables_table
from unit.test_one_layer import ours, random_model, random_rows

WRITERS = {"attn": "attn.c_proj", "mlp": "mlp.c_proj"}
READERS = {"attn": "attn.c_attn", "mlp": "mlp.c_fc"}
by_component = pytest.mark.parametrize("component", ["attn", "mlp"])


def scaled(theirs, component, first, second, tokens, layer=0):
    """Run transformers' model with the columns of a block's two matrices scaled; return (the block's update, logits)."""
    weights, gates = dict(theirs.named_parameters()), {READERS[component]: first, WRITERS[component]: second}
    names = {f"transformer.h.{layer}.{matrix}.weight": gate for matrix, gate in gates.items()}
    found = []
    writer = theirs.transformer.h[layer].get_submodule(WRITERS[component])
    handle = writer.register_forward_hook(lambda module, args, out: found.append(out))
    try:
        logits = functional_call(theirs, {name: weights[name] * gate for name, gate in names.items()}, (tokens,)).logits
    finally:
        handle.remove()
    return found[0], logits


def widths(component):
    return (384, 128) if component == "attn" else (512, 128)


def soft_mask(component, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return Mask(*(torch.rand(n, generator=rng, dtype=torch.float64) for n in widths(component)))


def hard_mask(component, seed=0, share=0.4):
    return Mask(*((part < share).double() for part in soft_mask(component, seed)))


def run_of(theirs, *rows):
    """Return a run with a part of test rows per task, whose answers are those of the whole model for half of them."""
    parts = {}
    for task, tokens in enumerate(rows):
        with torch.no_grad():
            answers = theirs(tokens).logits[:, -1].argmax(1)
        answers[::2] = 0
        parts[task, "test"] = Part(task, "test", tokens, tokens, answers, {}, {}, {})
    return Run(ours(theirs), 0, 10, parts)


# ---- the gate ------------------------------------------------------------------------------------------------------------


@by_component
@pytest.mark.parametrize("shape", [(114, 3), (116, 5)])
def test_gated_updates_are_those_of_scaled_columns(component, shape):
    theirs, rows = random_model(*shape), random_rows(30, shape[1])
    block = run_of(theirs, rows).block(0, "test", component)
    assert len(block) == 30 and block.n_columns == widths(component)
    for mask in (soft_mask(component), hard_mask(component), Mask(*map(torch.ones_like, soft_mask(component)))):
        with torch.no_grad():
            expected = scaled(theirs, component, *mask, rows)[0][:, -1]
        chosen = torch.tensor([7, 3, 11])
        assert expected.std() > 0.1
        assert (block.update(slice(None), mask) - expected).abs().max() < 1e-10
        assert (block.update(chosen, mask) - expected[chosen]).abs().max() < 1e-10


@contextmanager
def gated(block, component, mask, how):
    """Gate the activations of a block of transformers' by hooks, as ``how`` says; the list has what it writes."""
    found = []
    reader, writer = block.get_submodule(READERS[component]), block.get_submodule(WRITERS[component])

    def gate(linear, out, values):
        if how == "activations":
            return out * values
        out = out.clone()
        out[:, -1] = linear.bias + values * (out[:, -1] - linear.bias)
        return out

    def keep(module, args, out):
        found.append(gate(writer, out, mask.second))
        return found[-1]

    late = component == "mlp" and how == "activations"  # neurons are what the non-linearity gives
    first = block.mlp.act if late else reader
    handles = [
        first.register_forward_hook(lambda _, args, out: gate(reader, out, mask.first)),
        writer.register_forward_hook(keep),
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@by_component
@pytest.mark.parametrize("how", ["activations", "read_position"])
def test_other_ways_of_ablation_are_those_of_hooks(component, how):
    theirs, rows = random_model(116, 5), random_rows(40, 5)
    run, hard = run_of(theirs, rows), hard_mask(component)
    block, gone = run.block(0, "test", component), hard.complement()
    with torch.no_grad(), gated(theirs.transformer.h[0], component, gone, how) as found:
        logits = theirs(rows).logits[:, -1]
    expected = found[0][:, -1]
    update = block.update_without_biases if how == "activations" else block.update_here
    assert (update(slice(None), gone) - expected).abs().max() < 1e-10
    assert (update(slice(3, 9), gone) - expected[3:9]).abs().max() < 1e-10
    if component == "attn" or how == "activations":
        assert (block.update(slice(None), gone) - expected).abs().max() > 0.01
    (row,) = (row for row in ablations(run, 0, component, hard, 0, np.random.default_rng(0)) if row["condition"] == how)
    assert row["accuracy"] == float((logits.argmax(1) == run.parts[0, "test"].answers).double().mean())


@by_component
def test_accuracies_are_those_of_the_scaled_model(component):
    theirs = random_model(116, 5)
    rows = [torch.cat([torch.full((40, 1), 114 + task), random_rows(40, 4, seed=task)], 1) for task in (0, 1)]
    run, hard = run_of(theirs, *rows), hard_mask(component)
    gone, ones = hard.complement(), Mask(*map(torch.ones_like, hard))
    expected = {
        ("circuit", "all"): gone,
        ("kept", "all"): hard,
        ("circuit", MATRICES[component][0]): Mask(gone.first, ones.second),
        ("circuit", MATRICES[component][1]): Mask(ones.first, gone.second),
    }
    found = list(ablations(run, 0, component, hard, 2, np.random.default_rng(0)))
    assert len(found) == 2 * (6 + 2)
    accuracies = set()
    for row in (row for row in found if row["condition"] in ("circuit", "kept")):
        part = run.parts[row["eval_task"], "test"]
        with torch.no_grad():
            logits = scaled(theirs, component, *expected[row["condition"], row["matrices"]], part.tokens)[1][:, -1]
        assert row["accuracy"] == float((logits.argmax(1) == part.answers).double().mean())
        assert row["n"] == 40
        accuracies.add(row["accuracy"])
    assert len(accuracies) > 2  # the conditions differ


# ---- the loss ------------------------------------------------------------------------------------------------------------


def literal_loss(u, labels):
    """Write the soft-nearest-neighbour loss out, term by term."""
    total = 0.0
    for i in range(len(u)):
        same = every = torch.zeros((), dtype=u.dtype)
        for j in range(len(u)):
            if j != i:
                cosine = (u[i] * u[j]).sum() / (u[i].square().sum().sqrt() * u[j].square().sum().sqrt())
                near = torch.exp(cosine - 1)
                every = every + near
                same = same + near if labels[i] == labels[j] else same
        total = total - torch.log((same + 1e-5) / (every + 1e-5)) / len(u)
    return total


@pytest.mark.parametrize("labels", [[0, 0, 1, 1, 2, 2, 0], [0, 0, 0, 1, 1, 5, 9], [3] * 7, list(range(7))], ids=str)
def test_the_loss_and_its_gradient_are_the_literal_ones(labels):
    rng = torch.Generator().manual_seed(0)
    u = (torch.randn(7, 5, generator=rng, dtype=torch.float64) * torch.arange(1, 8)[:, None]).requires_grad_()
    labels = torch.tensor(labels)
    found, expected = neighbour_loss(u, labels), literal_loss(u, labels)
    assert abs(float(found.detach()) - float(expected.detach())) < 1e-12
    gradients = [torch.autograd.grad(3 * loss, u)[0] for loss in (found, expected)]
    assert (gradients[0] - gradients[1]).abs().max() < 1e-12
    assert torch.autograd.gradcheck(lambda x: neighbour_loss(x, labels), u)
    # Labels that are all the same cost nothing; a row alone of its class costs, and pushes the others away.
    assert (float(found.detach()) == 0) == (len(set(labels.tolist())) == 1)


def test_the_mean_loss_is_that_of_hard_masks_and_whole_batches():
    theirs, rows = random_model(), random_rows(50)
    labels, hard = rows[:, 0] % 3, hard_mask("mlp")
    with torch.no_grad():
        u = scaled(theirs, "mlp", *hard, rows)[0][:, -1]
        order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
        losses = [float(literal_loss(u[part], labels[part])) for part in order.split(20)]
    block = run_of(theirs, rows).block(0, "test", "mlp")
    assert mean_loss(block, labels, hard, order, 20, drop=True) == pytest.approx(np.mean(losses[:2]), abs=1e-12)
    assert mean_loss(block, labels, hard, order, 20, drop=False) == pytest.approx(np.mean(losses), abs=1e-12)
    assert len(losses) == 3


def test_an_empty_circuit_costs_what_the_labels_say():
    rows = rows_table("disambiguation")
    values = variables_table("disambiguation", rows)
    values = values[values["split"] == "test"].sort_values("row")
    rng = torch.Generator().manual_seed(0)
    block = CachedMlp(*(torch.randn(*shape, generator=rng) for shape in ((5108, 16), (16,), (16, 8), (8,))), "relu")
    empty = Mask(torch.zeros(16), torch.zeros(8))
    for variable, loss in (("a_plus_b", 5.294748), ("a_minus_b", 5.320803)):
        labels = torch.tensor(values.loc[values["variable"] == variable, "value"].to_numpy())
        assert mean_loss(block, labels, empty, torch.arange(5108), 500, drop=False) == pytest.approx(loss, abs=1e-6)


# ---- training ------------------------------------------------------------------------------------------------------------


def literal_training(theirs, component, tokens, labels, recipe, seed):
    """Train a mask as the authors do: weights are scaled, the whole model is run, a DataLoader shuffles."""
    block = theirs.transformer.h[0]
    weights = [block.get_submodule(names[component]).weight for names in (READERS, WRITERS)]
    scores = [torch.zeros(weight.shape[1], dtype=torch.float64, requires_grad=True) for weight in weights]
    optimizer = torch.optim.AdamW(
        scores, lr=recipe.learning_rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01, fused=False, foreach=False
    )
    torch.manual_seed(seed)
    list(DataLoader(TensorDataset(labels), batch_size=recipe.batch))  # the untrained mask is evaluated first
    heat, steps = 1.0, 0
    for _ in range(recipe.epochs):
        data = TensorDataset(tokens, labels)
        for x, y in DataLoader(data, batch_size=recipe.batch, shuffle=True, drop_last=True):
            gates = [torch.sigmoid(heat * s) for s in scores]
            loss = literal_loss(scaled(theirs, component, *gates, x)[0][:, -1], y)
            kept = sum((torch.ones_like(weight) * gate).sum() for weight, gate in zip(weights, gates, strict=True))
            optimizer.zero_grad()
            (loss + recipe.price * kept).backward()
            optimizer.step()
            steps += 1
        heat *= 200 ** (1 / recipe.epochs)
    return [s.detach() for s in scores], steps


@by_component
@pytest.mark.parametrize(("epochs", "price"), [(1, 1e-6), (2, 1e-4)])
def test_steps_of_training_equal_autograd_through_the_whole_model(component, epochs, price):
    theirs, rows = random_model(), random_rows(40)
    labels, recipe = rows[:, 0] % 4, Recipe(price, epochs=epochs, batch=13)
    expected, steps = literal_training(theirs, component, rows, labels, recipe, seed=3)
    found = train_mask(run_of(theirs, rows).block(0, "test", component), labels, recipe, 3)
    assert steps == 3 * epochs
    for ours_part, part in zip(found, expected, strict=True):
        assert part.abs().max() > 1e-3
        assert (ours_part - part).abs().max() < 1e-10


def test_orders_are_those_of_a_data_loader():
    for seed in (0, 11):
        order = LoaderOrder(seed)
        order.skip()
        found = [order.shuffled(50), order.shuffled(50), order.shuffled(33)]
        torch.manual_seed(seed)
        list(DataLoader(TensorDataset(torch.arange(5)), batch_size=2))
        expected = [
            torch.cat([rows for (rows,) in DataLoader(TensorDataset(torch.arange(n)), batch_size=8, shuffle=True)])
            for n in (50, 50, 33)
        ]
        assert all((ours_part == part).all() for ours_part, part in zip(found, expected, strict=True))
        assert (found[0] != found[1]).any()


def test_an_order_leaves_the_global_stream_alone():
    before = torch.random.get_rng_state()
    LoaderOrder(0).shuffled(20)
    assert (torch.random.get_rng_state() == before).all()


def test_only_whole_batches_are_used():
    found = list(batches(torch.arange(11), 4))
    assert [part.tolist() for part in found] == [[0, 1, 2, 3], [4, 5, 6, 7]]


def planted(n=600, hidden=24, classes=5, seed=0):
    """Return an MLP whose first four hidden columns, and first four outputs, carry a label; the others are noise."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=rng)
    pre = 3 * torch.randn(n, hidden, generator=rng)
    pre[:, :4] = 3 * torch.randn(classes, 4, generator=rng)[labels] + 0.1 * pre[:, :4]
    return CachedMlp(pre, torch.zeros(hidden), torch.eye(hidden), torch.full((hidden,), 0.01), "relu"), labels


def test_training_finds_a_planted_circuit_and_nothing_in_noise():
    block, labels = planted()
    recipe = Recipe(1e-4, epochs=60, batch=200, learning_rate=1e-2)
    hard = train_mask(block, labels, recipe, 0).hard()
    first, second = (part.nonzero().flatten().tolist() for part in hard)
    assert set(first) | set(second) <= set(range(4)) and len(set(first) & set(second)) >= 2
    everything = Mask(*map(torch.ones_like, hard))
    order = torch.arange(len(labels))
    losses = [mean_loss(block, labels, mask, order, 200, drop=True) for mask in (hard, everything)]
    assert losses[0] < losses[1] - 0.1
    shuffled = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(2))]
    assert all(part.sum() == 0 for part in train_mask(block, shuffled, recipe, 0).hard())


def test_frames_see_the_gates_before_each_epoch():
    block, labels = planted(60)
    seen = {}
    recipe = Recipe(1e-4, epochs=3, batch=20, learning_rate=1e-2)
    train_mask(block, labels, recipe, 0, lambda epoch, gates: seen.update({epoch: gates}))
    assert list(seen) == [0, 1, 2]
    assert all((part == 0.5).all() for part in seen[0])
    # A run of the same schedule that ends earlier has the scores that a later frame shows: the temperature is 200^(e/3).
    for epoch in (1, 2):
        short = Recipe(1e-4, epochs=epoch, batch=20, learning_rate=1e-2, hottest=200.0 ** (epoch / 3))
        scores = train_mask(block, labels, short, 0)
        for gate, score in zip(seen[epoch], scores, strict=True):
            assert (gate - torch.sigmoid(200.0 ** (epoch / 3) * score)).abs().max() < 1e-6


# ---- sizes and random circuits -------------------------------------------------------------------------------------------


@by_component
def test_kept_weights_are_counted_in_the_matrices(component):
    theirs, hard = random_model(), hard_mask(component)
    matrices = [theirs.transformer.h[0].get_submodule(names[component]).weight for names in (READERS, WRITERS)]
    kept = sum(int((weight * part != 0).sum()) for weight, part in zip(matrices, hard, strict=True))
    block = run_of(theirs, random_rows(3)).block(0, "test", component)
    assert kept_weights(block, hard) == (kept, sum(weight.numel() for weight in matrices))
    assert kept_weights(block, hard)[1] == {"attn": 65536, "mlp": 131072}[component]  # the published sizes


def test_hard_masks_keep_positive_scores():
    scores = Mask(torch.tensor([-1.0, 0.0, 1e-9]), torch.tensor([2.0, -0.0]))
    assert [part.tolist() for part in scores.hard()] == [[0, 0, 1], [1, 0]]
    assert [part.tolist() for part in scores.hard().complement()] == [[1, 1, 0], [0, 1]]


def test_random_circuits_have_the_size_and_lie_outside_where_they_fit():
    rng, drawn = torch.Generator().manual_seed(0), []
    circuit = Mask(torch.tensor([1.0, 0, 0, 0, 1, 0, 0, 0]), torch.zeros(5))
    for _ in range(400):
        chosen, outside = random_mask(circuit, rng)
        assert outside and [float(part.sum()) for part in chosen] == [2, 0]
        assert set(chosen.first.unique().tolist()) <= {0, 1} and (chosen.first * circuit.first).sum() == 0
        drawn.append(chosen.first)
    counts = torch.stack(drawn).sum(0)
    assert (counts[circuit.first == 0] - 400 * 2 / 6).abs().max() < 45 and any((a != b).any() for a, b in pairwise(drawn))
    big = Mask(torch.tensor([1.0, 1, 1, 0]), torch.tensor([1.0, 0, 0]))
    found = [random_mask(big, rng) for _ in range(100)]
    assert not any(outside for _, outside in found)
    assert all([float(part.sum()) for part in chosen] == [3, 1] for chosen, _ in found)
    assert all(chosen.second[0] == 0 for chosen, _ in found)
    assert torch.stack([chosen.first for chosen, _ in found]).mean(0).min() > 0.5


def test_masks_of_attention_are_queries_keys_and_values_in_turn():
    theirs, rows = random_model(), random_rows(12)
    block, ones = cached_attention(ours(theirs), rows), Mask(torch.ones(384).double(), torch.ones(128).double())
    uniform = ones._replace(first=torch.cat([torch.zeros(128), torch.ones(256)]).double())
    with torch.no_grad():
        theirs.transformer.h[0].attn.c_attn.weight[:, :128] = 0  # only the queries' bias is left
        expected = scaled(theirs, "attn", *ones, rows)[0][:, -1]
    assert (block.update(slice(None), uniform) - expected).abs().max() < 1e-10


@pytest.mark.parametrize(
    ("epochs", "frames"), [(90, range(0, 90, 10)), (30, range(0, 27, 3)), (2, range(2)), (95, range(0, 90, 10))]
)
def test_nine_frames_are_kept_however_long_a_mask_is_trained(epochs, frames):
    run = run_of(random_model(), random_rows(60))
    block, labels = run.block(0, "test", "mlp"), torch.arange(60) % 7
    pictures = Pictures(block, labels, 0, epochs)
    for epoch in range(epochs):
        pictures(epoch, soft_mask("mlp", epoch))
    table = pictures.table()
    assert list(table["frame"].unique()) == [-1, *frames]
    assert (table.groupby("frame").size() == 35).all()  # seven classes, five rows of each
    assert table.groupby("frame")[["pc1", "pc2"]].mean().abs().max().max() < 1e-9
