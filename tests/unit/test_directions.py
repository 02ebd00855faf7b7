"""Fitted directions against scikit-learn, autograd, all partitions of a few rows, and the published random vectors."""

import itertools
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.linear_model import LogisticRegression

from recircuit.core.errors import UserError
from recircuit.methods.directions import (
    METHODS,
    Direction,
    components,
    correct,
    cosines,
    fit,
    logistic_regression,
    mean_difference,
    orient,
    p_value,
    random_directions,
    resolve,
    shuffled_labels,
    similarity,
    two_means,
    unit,
)

POSITIVE = torch.arange(30) % 2 == 0


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def data(gap=6.0, n=30, width=40, seed=0, layers=()):
    """Rows of two classes, apart along one axis, off the origin and stretched."""
    noise = torch.randn(*layers, n, width, generator=rng(seed), dtype=torch.float64)
    axis, centre = torch.randn(2, width, generator=rng(seed + 1000), dtype=torch.float64)
    spread = torch.linspace(0.3, 2, width, dtype=torch.float64)
    labels = torch.arange(n) % 2 == 0
    return noise * spread + gap * labels[:, None] * axis / axis.norm() + 3 * centre, labels


def by_scikit_learn(method, x, labels):
    """Return the direction as the package fits it, without a sign."""
    if method == "mean_diff":
        return x[labels].mean(0) - x[~labels].mean(0)
    if method == "kmeans":
        model = KMeans(2, n_init=10, random_state=0).fit(x)  # with its own tolerance
        return model.cluster_centers_[1] - model.cluster_centers_[0]
    if method == "pca":
        return PCA(1, svd_solver="full").fit(x).components_[0]
    if method == "svd":
        return TruncatedSVD(1, algorithm="arpack").fit(x).components_[0]
    return LogisticRegression(solver="liblinear", tol=1e-12, max_iter=10000).fit(x, labels).coef_[0]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("gap", [6.0, 1.5])
@pytest.mark.parametrize("shape", [(30, 40), (60, 12)], ids=str)
def test_each_fit_is_scikit_learns_up_to_its_sign(method, gap, shape):
    x, labels = data(gap, *shape)
    found = fit(method, x, labels)
    expected = torch.tensor(by_scikit_learn(method, x.numpy(), labels.numpy()))
    sign = torch.sign(found.raw @ expected)
    tolerance = 1e-6 if method == "logistic_regression" else 1e-10  # liblinear stops at a tolerance of its own
    assert (found.raw - sign * expected).abs().max() < tolerance * expected.abs().max()
    assert float(found.norm) == pytest.approx(float(expected.norm()), rel=1e-6)
    assert (found.unit - found.raw / found.raw.norm()).abs().max() < 1e-12


@pytest.mark.parametrize("method", METHODS)
def test_layers_are_fitted_together_as_alone(method):
    x = data(4.0, layers=(2, 3))[0]
    together = fit(method, x, POSITIVE)
    assert together.raw.shape == (2, 3, 40) and together.flipped.shape == (2, 3)
    for i, j in itertools.product(range(2), range(3)):
        alone = fit(method, x[i, j], POSITIVE)
        assert (together.raw[i, j] - alone.raw).abs().max() < 1e-10 * alone.raw.abs().max()


@pytest.mark.parametrize("method", METHODS)
def test_single_precision_is_fitted_in_double(method):
    x = data()[0].float()
    assert (fit(method, x, POSITIVE).raw - fit(method, x.double(), POSITIVE).raw).abs().max() == 0


# ---- 2-means --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_two_means_finds_the_best_of_all_partitions(seed):
    x = torch.randn(9, 3, generator=rng(seed), dtype=torch.float64)
    found = two_means(x, restarts=200)
    best = np.inf
    for bits in itertools.product([False, True], repeat=8):
        second = torch.tensor([False, *bits])
        parts = [x[second], x[~second]] if second.any() else [x]
        best = min(best, sum(float((part - part.mean(0)).square().sum()) for part in parts))
    assert found.inertia == pytest.approx(best, rel=1e-12)
    for k, rows in enumerate((x[~found.second], x[found.second])):
        assert (found.centroids[k] - rows.mean(0)).abs().max() < 1e-12


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("gap", [0.0, 2.0, 6.0])
@pytest.mark.parametrize("restarts", [1, 10])
def test_two_means_is_scikit_learns_of_the_same_seed(seed, gap, restarts):
    x, y = data(gap, 30, 200, seed=seed)[0], data(gap, 30, 200, seed=seed + 50)[0]
    expected = KMeans(2, n_init=restarts, random_state=seed, tol=0).fit(x.numpy())
    found = two_means(x, seed, restarts)
    assert found.inertia == pytest.approx(expected.inertia_, rel=1e-12)
    flip = bool(found.second[0]) != bool(expected.labels_[0])
    assert ((found.second ^ flip).numpy() == expected.labels_).all()
    centroids = found.centroids.flip(0) if flip else found.centroids
    assert (centroids - torch.tensor(expected.cluster_centers_)).abs().max() < 1e-10
    assert ((found.assign(y) ^ flip).numpy() == expected.predict(y.numpy())).all()


def test_restarts_matter_and_the_seed_decides():
    x = data(0.0, 30, 200)[0]
    single = [two_means(x, seed, restarts=1).inertia for seed in range(30)]
    assert min(single) < max(single) and len(set(single)) > 5
    assert min(single) <= two_means(x).inertia < np.median(single)
    assert two_means(x, 5, restarts=1).inertia == single[5] != two_means(x, 6, restarts=1).inertia


def test_clusters_are_named_by_the_majority():
    x, labels = data(gap=20.0)
    for wanted in (labels, ~labels):
        named = two_means(x).named(wanted)
        assert (named.second == wanted).all()
        assert (named.difference - mean_difference(x, wanted)).abs().max() < 1e-10
    mostly = labels.clone()
    mostly[:5] = ~mostly[:5]
    assert (two_means(x).named(mostly).second == labels).all()


def test_rows_that_are_all_the_same_cannot_be_clustered():
    with pytest.raises(UserError, match="activations of all 4 prompts are the same"):
        two_means(torch.ones(4, 3))


# ---- logistic regression --------------------------------------------------------------------------------------------


def objective(weights, intercept, x, labels, c):
    """The published objective, written out."""
    y = torch.where(labels, 1.0, -1.0)
    losses = torch.log1p(torch.exp(-y * (x @ weights + intercept)))
    return (weights @ weights + intercept * intercept) / 2 + c * losses.sum()


@pytest.mark.parametrize("c", [1.0, 0.01, 100.0])
@pytest.mark.parametrize("shape", [(30, 768), (200, 10)], ids=str)
def test_the_gradient_of_the_published_objective_vanishes(c, shape):
    x, labels = data(2.0, *shape)
    found = logistic_regression(x, labels, c)
    weights, intercept = found.weights.clone().requires_grad_(), found.intercept.clone().requires_grad_()
    gradients = torch.autograd.grad(objective(weights, intercept, x, labels, c), (weights, intercept))
    assert max(float(part.abs().max()) for part in gradients) < 1e-8 * c
    assert found.intercept.abs() > 1e-6  # it is fitted, and has its price


def test_rounding_does_not_halve_the_last_steps(monkeypatch):
    calls = {"softplus": 0, "solve": 0}

    def counted(name, function):
        def call(*args):
            calls[name] += 1
            return function(*args)

        return call

    monkeypatch.setattr(F, "softplus", counted("softplus", F.softplus))
    monkeypatch.setattr(torch.linalg, "solve", counted("solve", torch.linalg.solve))
    for seed in range(10):
        logistic_regression(*data(2.0, 48, 128, seed))
    assert calls["solve"] <= calls["softplus"] / 2 <= 1.5 * calls["solve"]  # a step needs two values of the objective


def test_the_intercept_is_penalised_as_by_liblinear():
    x, labels = data(2.0, 60, 8)
    found = logistic_regression(x, labels)
    free = LogisticRegression(C=1.0, solver="lbfgs", tol=1e-12, max_iter=10000).fit(x.numpy(), labels.numpy())
    theirs = LogisticRegression(solver="liblinear", tol=1e-12, max_iter=10000).fit(x.numpy(), labels.numpy())
    assert float(found.intercept) == pytest.approx(float(theirs.intercept_[0]), rel=1e-6)
    assert abs(float(found.intercept) - float(free.intercept_[0])) > 0.01
    assert (found.predict(x).numpy() == theirs.predict(x.numpy())).all()


def test_large_activations_are_fitted_too():
    x, labels = data(2.0, 30, 768)
    x = 300 * x
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = logistic_regression(x, labels)
    theirs = LogisticRegression(solver="liblinear", tol=1e-12, max_iter=100000).fit(x.numpy(), labels.numpy())
    cosine = F.cosine_similarity(found.weights, torch.tensor(theirs.coef_[0]), dim=0)
    assert cosine > 1 - 1e-6
    ours, other = (
        objective(w, b, x, labels, 1.0)
        for w, b in ((found.weights, found.intercept), (torch.tensor(theirs.coef_[0]), torch.tensor(theirs.intercept_[0])))
    )
    assert ours <= other * (1 + 1e-12)


# ---- signs, accuracy, cosines ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_every_direction_points_from_negative_to_positive(method):
    x, labels = data(5.0)
    for wanted in (labels, ~labels):
        projections = x @ fit(method, x, wanted).unit
        assert projections[wanted].mean() > projections[~wanted].mean()


def test_orientation_says_whether_it_turned_the_vector():
    x, labels = data(5.0)
    vector = mean_difference(x, labels)
    kept, turned = orient(vector, x, labels), orient(-2 * vector, x, labels)
    assert not kept.flipped and turned.flipped
    assert (turned.raw - 2 * kept.raw).abs().max() == 0 and float(turned.norm) == pytest.approx(2 * float(kept.norm))
    both = orient(torch.stack([vector, -vector]), x, labels)
    assert both.flipped.tolist() == [False, True] and (both.raw[0] - both.raw[1]).abs().max() == 0


@pytest.mark.parametrize("method", METHODS)
def test_accuracy_is_that_of_literal_loops(method):
    (x, labels), (y, answers) = data(2.5, 30), data(2.5, 24, seed=9)
    found = correct(method, (x, labels), (y, answers))
    if method == "logistic_regression":
        model = LogisticRegression(solver="liblinear", tol=1e-12, max_iter=10000).fit(x.numpy(), labels.numpy())
        expected = model.predict(y.numpy()) == answers.numpy()
    else:
        train, test = x.numpy(), y.numpy()
        if method in ("pca", "svd"):
            axis, mean = by_scikit_learn(method, train, None), train.mean(0) * (method == "pca")
            train, test = ((part - mean) @ axis[:, None] for part in (train, test))
        model = KMeans(2, n_init=10, random_state=0, tol=0).fit(train)
        agree = (model.labels_ == labels.numpy()).mean() >= 0.5
        expected = (model.predict(test) == (1 if agree else 0)) == answers.numpy()
    assert found.tolist() == expected.tolist() and found.sum() > 0


def test_components_are_orthonormal_and_scores_are_coordinates():
    x = data(6.0)[0]
    found, model = components(x, 2), PCA(2, svd_solver="full").fit(x.numpy())
    signs = torch.sign((found.axes * torch.tensor(model.components_)).sum(1))
    assert (found.scores(x) * signs - torch.tensor(model.transform(x.numpy()))).abs().max() < 1e-10
    raw = components(x, 2, centred=False)
    assert (raw.mean == 0).all() and (raw.scores(x) - x @ raw.axes.T).abs().max() < 1e-12


def test_similarity_is_the_cosine_of_two_fits():
    (x, labels), (y, answers) = data(2.5, 30), data(2.5, 24, seed=9)
    for method in METHODS:
        a, b = fit(method, x, labels).raw, fit(method, y, answers).raw
        expected = float(a @ b / (a.norm() * b.norm()))
        assert float(similarity(method, (x, labels), (y, answers))) == pytest.approx(expected, abs=1e-12)


def test_cosines_are_signed_and_keep_every_dimension():
    a, b = torch.randn(2, 3, 5, generator=rng()), torch.randn(4, 5, generator=rng(1))
    found = cosines(a, b)
    assert found.shape == (2, 3, 4)
    for i, j, k in itertools.product(range(2), range(3), range(4)):
        assert float(found[i, j, k]) == pytest.approx(float(F.cosine_similarity(a[i, j].double(), b[k].double(), dim=0)))
    assert (cosines(b, -b).diagonal() + 1).abs().max() < 1e-12 and found.min() < 0 < found.max()


def test_a_vector_is_resolved_into_its_part_along_another_and_the_rest():
    a, b = torch.randn(2, 7, generator=rng(), dtype=torch.float64)
    along, rest = resolve(a, 5 * b)
    assert (along + rest - a).abs().max() < 1e-12 and abs(float(rest @ b)) < 1e-12
    assert float(F.cosine_similarity(along, b, dim=0).abs()) == pytest.approx(1)
    assert unit(torch.zeros(3)).tolist() == [0, 0, 0]


def test_unknown_ways_and_single_classes_are_refused():
    x = data()[0]
    with pytest.raises(UserError, match="'kmean' is no way to fit a direction; did you mean 'kmeans'"):
        fit("kmean", x, POSITIVE)
    with pytest.raises(UserError, match="did you mean 'pca'"):
        correct("pcas", (x, POSITIVE), (x, POSITIVE))
    for method in METHODS:
        with pytest.raises(UserError, match="all 30 prompts have one label"):
            fit(method, x, torch.ones(30, dtype=torch.bool))


# ---- null distributions ---------------------------------------------------------------------------------------------

PUBLISHED = [
    [0.06963287, 0.05374593, 0.03254918, -0.07608713],
    [0.01254597, -0.1129989, -0.05314474, -0.05216482],
    [-0.0315659, -0.0259571, -0.00762186, -0.02902062],
]


def test_random_directions_are_the_published_ones():
    found = random_directions(13, 768)
    assert (found[:3, :4] - torch.tensor(PUBLISHED)).abs().max() < 1e-6
    assert (found.norm(dim=1) - 1).abs().max() < 1e-6
    assert (random_directions(3, 768, seed=1) - found[:3]).abs().max() > 0.01


def test_labels_are_dealt_out_anew_with_as_many_of_each_class():
    labels = torch.arange(30) < 12
    drawn = shuffled_labels(labels, 200, 0)
    assert drawn.shape == (200, 30) and (drawn.sum(1) == 12).all()
    assert (drawn.double().mean(0) - 0.4).abs().max() < 0.15
    assert (drawn == shuffled_labels(labels, 200, 0)).all() and (drawn != shuffled_labels(labels, 200, 1)).any()


def test_fits_to_shuffled_labels_say_nothing_of_the_axis_but_separate_all_the_same():
    x, labels = data(6.0, 30, 768)
    axis = fit("mean_diff", x, labels).unit
    null = [fit("logistic_regression", x, drawn) for drawn in shuffled_labels(labels, 20, 0)]
    assert (
        max(float((found.unit @ axis).abs()) for found in null) < 0.6 < float(fit("logistic_regression", x, labels).unit @ axis)
    )
    drawn = shuffled_labels(labels, 1, 0)[0]
    assert correct("logistic_regression", (x, drawn), (x, drawn)).all()


def test_p_values_count_the_finding_itself():
    values = torch.tensor([0.1, 0.5, 0.9])
    assert p_value(values, 1.0) == 0.25 and p_value(values, 0.5) == 0.75 and p_value(values, 0.0) == 1.0


def test_a_direction_cannot_be_changed():
    with pytest.raises(AttributeError):
        Direction(torch.ones(2), torch.tensor(False)).raw = torch.zeros(2)
