"""LEACE as circuit probing uses it, against the concept-erasure package with its defaults, in float64."""

import pytest
import torch
from concept_erasure import LeaceFitter
from concept_erasure.shrinkage import optimal_linear_shrinkage
from scipy.linalg import sqrtm
from scipy.optimize import brentq

from recircuit.experiments.circuit_probing.erasure import random_directions
from recircuit.methods import erasure
from recircuit.methods.erasure import published_leace, shrunk

# Rows, width and classes; rows fewer than the width, classes more than it, and some that never occur.
SHAPES = [(400, 12, 5), (300, 8, 30), (40, 32, 4), (2000, 16, 113), (12, 20, 3)]


def data(n, width, classes, seed=0, strength=2.0):
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(max(2, classes - 3), (n,), generator=rng)
    noise, mixing, means = (torch.randn(rows, width, generator=rng, dtype=torch.float64) for rows in (n, width, classes))
    return noise @ mixing + strength * means[labels] + 3.0, torch.nn.functional.one_hot(labels, classes)


def covariance_of(x):
    """Return the covariance as the package estimates it."""
    centred = x - x.mean(0)
    return optimal_linear_shrinkage(centred.T @ centred / len(x), len(x))


def matrix(eraser):
    """Return what an eraser multiplies a column vector of centred activations by."""
    return torch.eye(len(eraser.mean)) - (eraser.right @ eraser.left).T


def package(x, z):
    """Return the package's eraser as it is by default."""
    return LeaceFitter.fit(x, z).eraser


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("strength", [2.0, 0.05])
def test_erasure_is_the_packages(shape, strength):
    x, z = data(*shape, strength=strength)
    found, expected = published_leace(x, z), package(x, z)
    assert (found(x) - expected(x)).abs().max() < 1e-10
    other = data(50, *shape[1:], seed=1)[0]
    assert (found(other) - expected(other)).abs().max() < 1e-10  # rows that it was not fitted on
    assert (found(x) - x).abs().max() > 1e-2


@pytest.mark.parametrize("scale", [1.0, 0.3, 0.02])
def test_small_activations_in_float32_are_erased_as_by_the_package(scale):
    """The package's epsilon is of the fourth order in the scale: nothing for the largest, everything for the smallest."""
    x, z = data(*SHAPES[0])
    x = (scale * x / x.std()).float()
    found, expected, exact = (
        eraser(x) for eraser in (published_leace(x, z), package(x, z), published_leace(x, z, epsilon=False))
    )
    assert (found - expected).abs().max() < 1e-4 * scale
    assert bool((exact - expected).abs().max() > 0.05 * scale) is (scale == 0.02)


@pytest.mark.parametrize("scale", [1e-3, 1e-5])
def test_small_activations_in_float64_too(scale):
    x, z = data(400, 12, 5)
    x = scale * x / x.std()
    assert (published_leace(x, z)(x) - package(x, z)(x)).abs().max() < 1e-10 * scale
    meant = published_leace(x / scale, z, epsilon=False)(x / scale) * scale
    assert (published_leace(x, z, epsilon=False)(x) - meant).abs().max() < 1e-10 * scale


def test_integer_labels_of_a_variable_are_taken_as_they_come():
    x, z = data(400, 12, 5)
    assert z.dtype == torch.int64 and x.dtype == torch.float64
    assert (published_leace(x, z)(x) - published_leace(x, z.double())(x)).abs().max() == 0
    single = published_leace(x.float(), z)
    assert single.mean.dtype == torch.float32
    assert (single(x.float()) - package(x, z)(x)).abs().max() < 1e-4


@pytest.mark.parametrize("n", [5, 30, 3000])
def test_the_covariance_is_shrunk_as_in_the_package(n):
    x = data(n, 12, 5)[0]
    covariance = (x - x.mean(0)).T @ (x - x.mean(0)) / n
    eps = torch.finfo(torch.float64).eps
    for size in (1.0, 1e-5):
        tiny = size * covariance
        assert (shrunk(tiny, n, eps) - optimal_linear_shrinkage(tiny, n)).abs().max() < 1e-12 * size
    assert (shrunk(covariance, n) - optimal_linear_shrinkage(covariance, n)).abs().max() < 1e-10
    assert (shrunk(covariance, n) - covariance).abs().max() > 1e-2


def test_weak_directions_stay():
    rng = torch.Generator().manual_seed(0)
    x, labels = torch.randn(60000, 6, generator=rng, dtype=torch.float64), torch.arange(60000) % 3
    x[:, 0] += 3.0 * (labels == 0)
    z = torch.nn.functional.one_hot(labels, 3)
    eraser = published_leace(x, z)
    assert eraser.left.shape == (1, 6)  # the first class differs from the others; these differ by chance alone
    assert published_leace(x, z, cut=1e-4).left.shape == (2, 6)
    erased = eraser(x)
    means = torch.stack([erased[labels == c].mean(0) for c in range(3)])
    assert (means[0] - means[1:]).abs().max() < 0.1 < (x[labels == 0].mean(0) - x[labels == 1].mean(0)).abs().max()


def test_erasing_never_widens_what_it_is_fitted_on():
    # P C P' = C^(1/2) (1 - U U') C^(1/2) is never more than C, so that the package's mixture is for other covariances only.
    for shape in SHAPES:
        x, z = data(*shape)
        found = published_leace(x, z)
        c, p = covariance_of(x), matrix(found)
        assert (p @ c @ p.T).trace() < c.trace()
        assert found.left.shape[0] <= min(shape[1:])


@pytest.mark.parametrize("seed", range(4))
def test_where_the_variance_would_grow_it_stays_as_it_was(seed, monkeypatch):
    """Show another covariance to the look at the variance than to the whitening; the mixture is found by bisection here.

    The package is no measure of this: it factors the mixture with the root of the singular values on the wrong side.
    """
    x, z = data(200, 6, 6, seed=seed)  # three classes occur: two directions
    own = covariance_of(x)
    whiten = torch.linalg.inv(torch.from_numpy(sqrtm(own.numpy())))
    u = torch.linalg.svd(whiten @ (x - x.mean(0)).T @ (z - z.double().mean(0)))[0][:, :2]
    oblique, straight = torch.linalg.inv(whiten) @ (torch.eye(6) - u @ u.T) @ whiten, torch.eye(6) - u @ u.T
    longer = torch.linalg.svd(oblique)[2][0]  # the direction that grows most
    other = 10 * torch.outer(longer, longer) + 0.1 * torch.eye(6)
    answers = iter([own, other])
    monkeypatch.setattr(erasure, "shrunk", lambda covariance, n, epsilon: next(answers))
    found = matrix(published_leace(x, z))

    def wider(share):
        mixed = share * oblique + (1 - share) * straight
        return float((mixed @ other @ mixed.T).trace() - other.trace())

    assert wider(1.0) > 0 > wider(0.0)
    share = brentq(wider, 0.0, 1.0, xtol=1e-15)
    assert (found - share * oblique - (1 - share) * straight).abs().max() < 1e-10


def test_the_control_removes_as_many_random_directions():
    x, _ = data(100, 12, 5)
    x = x.float()
    for rank in (0, 1, 5):
        erased = random_directions(x, rank, torch.Generator().manual_seed(rank))(x)
        moved = torch.linalg.svdvals((erased - x).double())
        assert int((moved > 1e-3).sum()) == rank
        assert torch.allclose(erased.mean(0), x.mean(0), atol=1e-4)
