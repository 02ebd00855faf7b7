"""The nearest-prototype read-out against scikit-learn and NumPy's own global calls, in float64."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from recircuit.experiments.circuit_probing.masks import DRAWS, read_out
from recircuit.methods.neighbours import accuracy, nearest_class, prototype_rows


def vectors(n, d=6, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_scikit_learn(prototypes, classes, x):
    return KNeighborsClassifier(1, metric="cosine").fit(prototypes.numpy(), classes.numpy()).predict(x.numpy())


@pytest.mark.parametrize("seed", range(4))
def test_the_nearest_class_is_scikit_learns(seed):
    prototypes = vectors(9, seed=seed) * torch.arange(1, 10)[:, None]  # lengths must not matter
    classes = torch.arange(9) * 3 + 1
    x = vectors(300, seed=seed + 10) + 0.5
    found = nearest_class(prototypes, classes, x)
    assert (found.numpy() == by_scikit_learn(prototypes, classes, x)).all() and len(set(found.tolist())) > 4
    labels = classes[torch.randint(9, (300,), generator=torch.Generator().manual_seed(seed))]
    assert accuracy(prototypes, classes, x, labels) == float((found == labels).double().mean())


def test_equal_prototypes_give_the_lowest_class():
    x, classes = vectors(50, seed=1), torch.tensor([2, 4, 7, 9])
    same = vectors(1).repeat(4, 1)
    assert (nearest_class(same, classes, x) == 2).all()
    # Only some are equal: each group stands for its first class.
    two = vectors(2, seed=3)[[1, 0, 1, 0]]
    found = nearest_class(two, classes, x)
    assert (found.numpy() == by_scikit_learn(two[:2], classes[:2], x)).all() and set(found.tolist()) == {2, 4}
    # Products of equal rows round differently in the blocks of a larger matrix product: ties must not depend on it.
    many = vectors(1, 128, seed=4).float().repeat(113, 1)
    assert (nearest_class(many, torch.arange(113), vectors(500, 128, seed=5).float()) == 0).all()


def test_updates_of_an_empty_circuit_are_all_of_the_first_class():
    labels = torch.randint(1, 5, (200,), generator=torch.Generator().manual_seed(0))
    constant = vectors(1).repeat(200, 1)
    first = prototype_rows(labels.numpy(), np.random.RandomState(0))
    share = float((labels == 1).double().mean())
    assert accuracy(constant[first], labels[first], constant, labels) == share


@pytest.mark.parametrize("seed", [0, 5])
def test_prototypes_are_those_of_the_global_numpy_calls(seed):
    labels = np.random.default_rng(1).integers(3, 20, 400)
    expected = []
    np.random.seed(seed)  # noqa: NPY002 (the authors' own calls)
    for value in sorted(set(labels.tolist())):
        members = [i for i, label in enumerate(labels) if label == value]
        expected.append(members[np.random.choice(range(len(members)), 1, replace=False)[0]])  # noqa: NPY002
    assert prototype_rows(labels, np.random.RandomState(seed)).tolist() == expected


def test_the_read_out_is_scikit_learns_on_rows_in_loader_order():
    centres = vectors(6, seed=1)
    labels, test_labels = (torch.arange(n) % 6 for n in (240, 120))
    train, test = centres[labels] + vectors(240, seed=2) * 0.8, centres[test_labels] + vectors(120, seed=3) * 0.8
    order = torch.randperm(240, generator=torch.Generator().manual_seed(4))[:200]
    found = read_out(train, labels, test, test_labels, order, 0)
    x, y = train[order], labels[order]
    first = prototype_rows(y.numpy(), np.random.RandomState(0))
    rest = np.setdiff1d(np.arange(200), first)
    assert found.dev == float((by_scikit_learn(x[first], y[first], x[rest]) == y[rest].numpy()).mean())
    assert found.test == float((by_scikit_learn(x[first], y[first], test) == test_labels.numpy()).mean())
    assert 0.3 < found.test < 1 and found.dev != found.test
    # The mean over the draws is near that over many others, and the deviation is that of single draws.
    scores = [
        accuracy(x[rows], y[rows], test, test_labels)
        for rows in (prototype_rows(y.numpy(), np.random.RandomState(seed)) for seed in range(100, 500))
    ]
    assert abs(found.mean - np.mean(scores)) < 4 * np.std(scores) / DRAWS**0.5
    assert 0.5 < found.sd / np.std(scores) < 1.6
