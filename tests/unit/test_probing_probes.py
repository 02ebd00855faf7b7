"""Probes and counterfactual embeddings against literal loops with a real DataLoader, one row at a time, in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from recircuit.experiments.circuit_probing.arithmetic import Part, Run
from recircuit.experiments.circuit_probing.probes import embed
from recircuit.methods import probes
from recircuit.methods.probes import counterfactual_embeddings, fit_probe, fit_whole, fresh_probe, probe_score
from unit.test_one_layer import ours, random_model, random_rows

CLASSES, WIDTH = 5, 12
by_kind = pytest.mark.parametrize("kind", ["linear", "nonlinear"])


def data(n=1100, seed=0, noise=1.0):
    """Return rows whose class stands in a few directions, and the classes."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (n,), generator=rng)
    centres = torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    return centres[labels] + noise * torch.randn(n, WIDTH, generator=rng, dtype=torch.float64), labels


def literal_probe(kind):
    if kind == "linear":
        return nn.Sequential(nn.Linear(WIDTH, CLASSES))
    return nn.Sequential(nn.Linear(WIDTH, 256), nn.ReLU(), nn.Linear(256, CLASSES))


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.01, fused=False, foreach=False)


def difference(a, b):
    return max(float((x - y).detach().abs().max()) for x, y in zip(a.parameters(), b.parameters(), strict=True))


@by_kind
def test_a_probe_is_that_of_a_plain_loop(kind):
    epochs = 100 if kind == "linear" else 5  # rounding grows along a hundred epochs of a network that is not convex
    x, labels = data()
    torch.manual_seed(3)
    expected = literal_probe(kind).double()
    optimizer = adamw(expected.parameters())
    torch.manual_seed(3)
    for _ in range(epochs):
        for rows, wanted in DataLoader(TensorDataset(x, labels), batch_size=500, shuffle=True, drop_last=True):
            optimizer.zero_grad()
            F.cross_entropy(expected(rows), wanted).backward()
            optimizer.step()
    found = fit_probe(kind, x, labels, CLASSES, seed=3, epochs=epochs)
    assert difference(found, expected) < 1e-10
    assert difference(found, fresh_probe(kind, WIDTH, CLASSES, 3)) > 0.1
    assert not any(parameter.requires_grad for parameter in found.parameters())


def test_the_published_recipe():
    assert (probes.RATE, probes.DECAY, probes.BATCH, probes.EPOCHS, probes.HIDDEN) == (0.1, 0.01, 500, 100, 256)


@by_kind
def test_a_fresh_probe_has_torchs_initial_weights_and_leaves_the_global_stream_alone(kind):
    torch.manual_seed(8)
    expected = literal_probe(kind)
    before = torch.random.get_rng_state()
    assert difference(fresh_probe(kind, WIDTH, CLASSES, 8), expected) == 0
    fit_probe(kind, *data(600), CLASSES, seed=1)
    assert (torch.random.get_rng_state() == before).all()


def test_a_whole_probe_is_trained_on_all_rows_at_once():
    x, labels = data(130)
    torch.manual_seed(2)
    expected = literal_probe("linear").double()
    optimizer = adamw(expected.parameters())
    for _ in range(100):
        optimizer.zero_grad()
        F.cross_entropy(expected(x), labels).backward()
        optimizer.step()
    assert difference(fit_whole(x, labels, CLASSES, seed=2), expected) < 1e-10


def test_a_planted_linear_variable_is_read_and_a_shuffled_one_is_not():
    (x, labels), (test, wanted) = data(seed=0, noise=0.3), data(400, seed=1, noise=0.3)
    probe = fit_probe("linear", x, labels, CLASSES, seed=0)
    score = probe_score(probe, test, wanted)
    logits = probe(test)
    assert score.loss == pytest.approx(float(F.cross_entropy(logits, wanted)), abs=1e-12)
    assert score.accuracy == float((logits.argmax(1) == wanted).double().mean()) > 0.97
    shuffled = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(5))]
    assert probe_score(fit_probe("linear", x, shuffled, CLASSES, seed=0), test, wanted).accuracy < 0.5


@by_kind
def test_only_a_probe_with_a_hidden_layer_reads_a_parity(kind):
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 2, generator=rng)
    labels = (x[:, 0] * x[:, 1] > 0).long()
    found = probe_score(fit_probe(kind, x[:1000], labels[:1000], 2, seed=0), x[1000:], labels[1000:]).accuracy
    assert found > 0.9 if kind == "nonlinear" else 0.3 < found < 0.7


@by_kind
def test_embeddings_of_all_rows_are_those_of_each_row(kind):
    x, labels = data(6)
    probe = fit_probe(kind, *data(), CLASSES, seed=0)
    wanted = (labels + 1) % CLASSES
    found = counterfactual_embeddings(probe, x, wanted)
    for i in range(len(x)):
        row = nn.Parameter(x[i].clone())
        optimizer = adamw([row])
        for _ in range(100):
            optimizer.zero_grad()
            F.cross_entropy(probe(row), wanted[i]).backward()
            optimizer.step()
        assert (found[i] - row.detach()).abs().max() < 1e-10
    assert (probe(found).argmax(1) == wanted).all() and (probe(x).argmax(1) != wanted).all()
    assert (x == data(6)[0]).all()


def test_embedded_rows_are_scored_by_the_model_that_goes_on_from_them():
    theirs, rows = random_model(), random_rows(60)
    streams = {}
    theirs.transformer.h[0].ln_2.register_forward_pre_hook(lambda module, args: streams.update(mid=args[0][:, -1]))
    with torch.no_grad():
        logits = theirs(rows).logits[:, -1]
    answers, values = logits.argmax(1), rows[:, 0] % CLASSES
    cf_answers = torch.where(rows[:, 1] % 3 == 0, answers, (answers + 1 + rows[:, 1]) % 113)
    part = Part(0, "test", rows, rows, answers, {"v": values}, {"v": (values + 1) % CLASSES}, {"v": cf_answers})
    run = Run(ours(theirs), 0, 10, {(0, "test"): part})
    mid = run.stream(0, "test", "attn")
    assert (mid - streams["mid"]).abs().max() < 1e-12
    probe = fit_probe("linear", mid.repeat(10, 1), values.repeat(10), CLASSES, seed=0)
    found = embed(run, "attn", probe, mid, part, "v", 100)
    changed = [i for i in range(60) if cf_answers[i] != answers[i]]
    after = counterfactual_embeddings(probe, mid[changed], (values[changed] + 1) % CLASSES)

    moved = after - streams["mid"][changed]  # added to what attention writes, the stream becomes the embedding

    def patch(module, args, out):
        return torch.cat([out[:, :-1], (out[:, -1] + moved)[:, None]], 1)

    theirs.transformer.h[0].attn.c_proj.register_forward_hook(patch)
    with torch.no_grad():
        patched = theirs(rows[changed]).logits[:, -1]
    given, clean = patched.argmax(1), logits[changed]
    pairs = torch.stack([cf_answers[changed], answers[changed]], 1)
    ratio = [p[:, 0] - p[:, 1] for p in (patched.gather(1, pairs), clean.gather(1, pairs))]
    assert found["n"] == len(changed) < 60
    assert found["success"] == float((probe(after).argmax(1) == (values[changed] + 1) % CLASSES).double().mean()) > 0.9
    assert found["predicts_cf"] == float((given == pairs[:, 0]).double().mean())
    assert found["predicts_original"] == float((given == pairs[:, 1]).double().mean()) < 1
    assert found["mean_logit_ratio"] == pytest.approx(float((ratio[0] / ratio[1]).mean()), abs=1e-9)
