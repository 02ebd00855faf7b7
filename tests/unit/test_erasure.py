"""LEACE against the concept-erasure package and its theorem; principal components against scikit-learn; in float64."""

import pytest
import torch
from concept_erasure import LeaceFitter
from sklearn.decomposition import PCA

from recircuit.methods.components import principal_components
from recircuit.methods.erasure import leace, linear_r2, one_hot, remove_components


@pytest.fixture(scope="module")
def data():
    rng = torch.Generator().manual_seed(0)
    labels = torch.randint(5, (400,), generator=rng)
    x = torch.randn(400, 12, generator=rng, dtype=torch.float64) @ torch.randn(12, 12, generator=rng, dtype=torch.float64)
    return x + 2.0 * torch.randn(5, 12, generator=rng, dtype=torch.float64)[labels] + 3.0, labels


def test_leace_equals_the_package(data):
    x, labels = data
    z = one_hot(labels)
    fitter = LeaceFitter(12, z.shape[1], dtype=torch.float64, svd_tol=1e-6, shrinkage=False, constrain_cov_trace=False)
    fitter.update(x, z)
    assert (leace(x, z)(x) - fitter.eraser(x)).abs().max() < 1e-10


def test_no_linear_function_is_left_of_the_concept(data):
    x, labels = data
    z = one_hot(labels)
    erased = leace(x, z)(x)
    cross = (erased - erased.mean(0)).T @ (z - z.mean(0)) / len(x)
    assert cross.abs().max() < 1e-12  # the theorem: zero cross-covariance
    assert linear_r2(x, labels.double()) > 0.2 > 1e-10 > linear_r2(erased, labels.double())
    assert (leace(x, z)(erased) - erased).abs().max() < 1e-9  # erasing twice is erasing once


def test_leace_changes_no_more_than_a_projection_must(data):
    x, labels = data
    z = one_hot(labels)
    ours = (leace(x, z)(x) - x).square().sum(1).mean()
    # Any other eraser moves further: the orthogonal projection away from the class means is one.
    means = torch.stack([x[labels == c].mean(0) for c in range(5)])
    axes = torch.linalg.svd(means - means.mean(0))[2][:4]
    other = (remove_components(x.mean(0), axes)(x) - x).square().sum(1).mean()
    assert ours < other


def test_activations_that_do_not_fill_their_space_are_erased_too(data):
    x, labels = data
    flat = torch.cat([x, x[:, :3] + x[:, 3:6]], 1)  # rank 12 in 15 dimensions
    erased = leace(flat, one_hot(labels))(flat)
    assert torch.isfinite(erased).all() and linear_r2(erased, labels.double()) < 1e-8


def test_components_equal_scikit_learn_and_their_signs_are_fixed(data):
    x, _ = data
    along = x[:, 0] - 2 * x[:, 1]
    ours, theirs = principal_components(x, 3, along), PCA(3).fit(x.numpy())
    assert torch.allclose(ours.ratios[:3], torch.from_numpy(theirs.explained_variance_ratio_), atol=1e-12)
    scores = torch.from_numpy(theirs.transform(x.numpy()))
    assert (ours.scores.abs() - scores.abs()).abs().max() < 1e-9
    assert ((ours.scores * (along - along.mean())[:, None]).sum(0) > 0).all()
    flipped = principal_components(x.flip(0), 3, along.flip(0)).scores.flip(0)
    assert (flipped - ours.scores).abs().max() < 1e-9


def test_removed_components_are_those_of_the_mean(data):
    x, _ = data
    pca = principal_components(x, 2)
    erased = remove_components(pca.mean, pca.axes)(x)
    assert ((erased - pca.mean) @ pca.axes.T).abs().max() < 1e-12
    assert (erased.var(0, correction=0).sum() / x.var(0, correction=0).sum() - (1 - pca.ratios[:2].sum())).abs() < 1e-12
