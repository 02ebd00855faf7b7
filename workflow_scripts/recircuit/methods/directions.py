"""Directions of the residual stream fitted to labelled activations, their cosines and their accuracy.

Sentiment, sections 3.1 to 3.3: mean difference, 2-means, principal component, uncentred singular vector and logistic
regression, all in float64 and over leading dimensions (layers, say): x is [*b n d], the labels of its rows are [n]. A direction
is oriented afterwards: positive prompts project higher than negative ones.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from recircuit.core.errors import UserError, nearest
from recircuit.core.stats import stream

METHODS = ("mean_diff", "kmeans", "pca", "svd", "logistic_regression")
RESTARTS = 10


@dataclass(frozen=True)
class Direction:
    """Directions of some layers (or draws), oriented: ``raw`` [*b d] in residual units, ``flipped`` [*b] where the sign was."""

    raw: Float[Tensor, "*b d"]
    flipped: Bool[Tensor, " *b"]

    @property
    def norm(self) -> Float[Tensor, " *b"]:
        """The length of what the fit returned."""
        return self.raw.norm(dim=-1)

    @property
    def unit(self) -> Float[Tensor, "*b d"]:
        """The vectors of length 1."""
        return unit(self.raw)


def unit(vectors: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
    """Return vectors divided by their length; a zero vector stays zero."""
    length = vectors.norm(dim=-1, keepdim=True)
    return vectors / torch.where(length > 0, length, torch.ones_like(length))


def orient(vectors: Float[Tensor, "*b d"], x: Float[Tensor, "*b n d"], positive: Bool[Tensor, " n"]) -> Direction:
    """Turn vectors so that positive prompts project higher on them than negative ones, on average (section 3.1)."""
    flipped = (mean_difference(x, positive) * vectors).sum(-1) < 0
    return Direction(torch.where(flipped[..., None], -vectors, vectors), flipped)


def fit(method: str, x: Float[Tensor, "*b n d"], positive: Bool[Tensor, " n"]) -> Direction:
    """Fit and orient a direction by one of METHODS at each layer of ``x``.

    Raises UserError for an unknown method, and for labels of one class only.
    """
    if method not in METHODS:
        raise UserError(f"'{method}' is no way to fit a direction{nearest(method, METHODS)}")
    if method == "mean_diff":
        return orient(mean_difference(x, positive), x, positive)
    if method == "logistic_regression":
        return orient(logistic_regression(x, positive).weights, x, positive)
    if method in ("pca", "svd"):
        return orient(components(x, centred=method == "pca").axes[..., 0, :], x, positive)
    flat = x.reshape(-1, *x.shape[-2:])
    found = torch.stack([two_means(one).named(positive).difference for one in flat])
    return orient(found.view(*x.shape[:-2], -1), x, positive)


# ---- fits -----------------------------------------------------------------------------------------------------------


def mean_difference(x: Float[Tensor, "*b n d"], positive: Bool[Tensor, " n"]) -> Float[Tensor, "*b d"]:
    """Return the mean of positive rows less that of negative ones. Raises UserError when a class has no row."""
    if bool(positive.all()) or not bool(positive.any()):
        raise UserError(f"all {len(positive)} prompts have one label; a direction needs prompts of both classes")
    x = x.double()
    return x[..., positive, :].mean(-2) - x[..., ~positive, :].mean(-2)


class Components(NamedTuple):
    """Axes [*b k d], largest singular value first, and the mean [*b d] that was taken off (zero if none was)."""

    mean: Tensor
    axes: Tensor

    def scores(self, x: Float[Tensor, "*b n d"]) -> Float[Tensor, "*b n k"]:
        """Return the coordinates of rows."""
        return (x.double() - self.mean[..., None, :]) @ self.axes.mT


def components(x: Float[Tensor, "*b n d"], count: int = 1, *, centred: bool = True) -> Components:
    """Return the first principal components of rows, or without centring their first right singular vectors."""
    x = x.double()
    mean = x.mean(-2) if centred else torch.zeros_like(x[..., 0, :])
    return Components(mean, torch.linalg.svd(x - mean[..., None, :], full_matrices=False).Vh[..., :count, :])


@dataclass(frozen=True)
class Clusters:
    """Two clusters: ``centroids`` [2 d] and ``second`` [n], which rows are nearer to the second; ``inertia`` sums squares."""

    centroids: Tensor
    second: Tensor
    inertia: float

    def named(self, positive: Bool[Tensor, " n"]) -> "Clusters":
        """Return the clusters in the order negative, positive: the one that agrees with most labels (section 3.1)."""
        if bool((self.second == positive).double().mean() >= 0.5):
            return self
        return Clusters(self.centroids.flip(0), ~self.second, self.inertia)

    @property
    def difference(self) -> Float[Tensor, " d"]:
        """The second centroid less the first."""
        return self.centroids[1] - self.centroids[0]

    def assign(self, x: Float[Tensor, "m d"]) -> Bool[Tensor, " m"]:
        """Tell which rows are nearer to the second centroid."""
        first, second = _squares(x.double(), self.centroids).unbind(-1)
        return second < first


def two_means(x: Float[Tensor, "n d"], seed: int = 0, restarts: int = RESTARTS) -> Clusters:
    """Cluster rows by 2-means, the best of some restarts, each run to a fixed point; as scikit-learn's KMeans of that seed.

    Of thirty rows in hundreds of dimensions several fixed points are close, so that what is drawn decides which one is found:
    k-means++ (Arthur and Vassilvitskii 2007) in scikit-learn's greedy form, from NumPy's legacy generator. Raises UserError
    when all rows are the same.
    """
    x, rng = x.double(), np.random.RandomState(seed)
    if bool((x == x[0]).all()):
        raise UserError(f"the activations of all {len(x)} prompts are the same; there is nothing to cluster")
    found = [_lloyd(x, x[_plus_plus(x - x.mean(0), rng)]) for _ in range(restarts)]
    return min(found, key=lambda clusters: clusters.inertia)


def _plus_plus(x: Tensor, rng: np.random.RandomState) -> list[int]:
    """Draw a row, then two with odds as their squared distance from it; keep the one that lowers the inertia more."""
    first = int(rng.choice(len(x), p=np.full(len(x), 1 / len(x))))
    near = (x - x[first]).square().sum(1)
    draws = torch.from_numpy(rng.uniform(size=2)).to(x) * near.sum()
    candidates = torch.searchsorted(near.cumsum(0), draws).clamp(max=len(x) - 1)
    inertia = torch.minimum(near[:, None], _squares(x, x[candidates])).sum(0)
    return [first, int(candidates[inertia.argmin()])]


def _lloyd(x: Tensor, centroids: Float[Tensor, "2 d"]) -> Clusters:
    """Assign rows and move centroids until no row changes its cluster."""
    before = None
    while True:
        squares = _squares(x, centroids)
        second = squares[:, 1] < squares[:, 0]
        if before is not None and bool((second == before).all()):
            return Clusters(centroids, second, float(squares.min(1).values.sum()))
        before = second
        # A cluster that lost its last row keeps its centroid.
        groups = ((x[~second], centroids[0]), (x[second], centroids[1]))
        centroids = torch.stack([rows.mean(0) if len(rows) else old for rows, old in groups])


def _squares(x: Float[Tensor, "n d"], centroids: Float[Tensor, "k d"]) -> Float[Tensor, "n k"]:
    return (x[:, None] - centroids).square().sum(-1)


class Logistic(NamedTuple):
    """A linear classifier: weights [*b d] and intercept [*b]."""

    weights: Tensor
    intercept: Tensor

    def predict(self, x: Float[Tensor, "*b n d"]) -> Bool[Tensor, "*b n"]:
        """Tell which rows are positive."""
        return (x.double() @ self.weights[..., None])[..., 0] + self.intercept[..., None] > 0


def logistic_regression(x: Float[Tensor, "*b n d"], positive: Bool[Tensor, " n"], c: float = 1.0) -> Logistic:
    """Minimise |w|^2/2 + b^2/2 + c sum log(1 + exp(-y (w x + b))), as liblinear does: the intercept has its price too.

    The minimum lies in the span of the rows with a 1 appended, so that Newton's method runs in at most n dimensions, whatever d
    is; its Hessian is I + c A' D A, never singular (section 3.1).
    """
    mean_difference(x, positive)  # says so when a class is missing
    rows = torch.cat([x.double(), torch.ones_like(x[..., :1]).double()], -1)
    q, r = torch.linalg.qr(rows.mT)  # rows = (q r)', w = q beta
    signed = r.mT * torch.where(positive, 1.0, -1.0).to(r)[:, None]  # [*b n k]
    flat = signed.reshape(-1, *signed.shape[-2:])
    beta = torch.stack([_newton(one, c) for one in flat]).view(*signed.shape[:-2], -1)
    found = (q @ beta[..., None])[..., 0]
    return Logistic(found[..., :-1], found[..., -1])


def _newton(a: Float[Tensor, "n k"], c: float, tolerance: float = 1e-12, steps: int = 200) -> Float[Tensor, " k"]:
    """Minimise |beta|^2/2 + c sum softplus(-a beta) by damped Newton steps."""

    def objective(beta: Tensor) -> Tensor:
        return beta.square().sum() / 2 + c * F.softplus(-(a @ beta)).sum()

    beta = a.new_zeros(a.shape[1])
    for _ in range(steps):
        wrong = torch.sigmoid(-(a @ beta))
        gradient = beta - c * (wrong @ a)
        if float(gradient.norm()) <= tolerance * max(1.0, float(c * a.norm())):
            break
        hessian = torch.eye(len(beta)).to(a) + c * (a.T * (wrong * (1 - wrong))) @ a
        step = torch.linalg.solve(hessian, gradient)
        size, now, slope = 1.0, objective(beta), gradient @ step
        rounding = 1e-13 * (1 + now)  # the descent of the last steps is lost in it
        while size > 1e-9 and objective(beta - size * step) > now - 0.25 * size * slope + rounding:
            size /= 2
        beta = beta - size * step
    return beta


# ---- null distributions ---------------------------------------------------------------------------------------------


def random_directions(count: int, width: int, seed: int = 42) -> Float[Tensor, "count d"]:
    """Draw unit vectors from torch's generator on the CPU, one after the other: with seed 42 the published ones by layer."""
    rng = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(width, generator=rng) for _ in range(count)]
    return torch.stack([vector / vector.norm() for vector in drawn])


def shuffled_labels(positive: Bool[Tensor, " n"], draws: int, seed: int) -> Bool[Tensor, "draws n"]:
    """Return labels dealt out anew, each time as many of each class: what a fit finds where there is nothing to find."""
    rng = stream(seed, "shuffled-labels")
    return torch.stack([positive[torch.from_numpy(rng.permutation(len(positive))).to(positive.device)] for _ in range(draws)])


# ---- how good and how alike -----------------------------------------------------------------------------------------


def correct(
    method: str,
    train: tuple[Float[Tensor, "n d"], Bool[Tensor, " n"]],
    test: tuple[Float[Tensor, "m d"], Bool[Tensor, " m"]],
) -> Bool[Tensor, " m"]:
    """Tell which test rows of one layer a fit on the training rows classifies rightly, each as (activations, labels).

    As published: logistic regression by its sign; k-means and mean difference by the nearer centroid of 2-means; PCA and SVD by
    that of 2-means on the first coordinate. Rows are counted one by one, where the authors count sets of words (section 3.1).
    """
    (x, positive), (y, answers) = train, test
    if method == "logistic_regression":
        return logistic_regression(x, positive).predict(y) == answers
    if method in ("pca", "svd"):
        found = components(x, centred=method == "pca")
        x, y = found.scores(x), found.scores(y)
    elif method not in METHODS:
        raise UserError(f"'{method}' is no way to fit a direction{nearest(method, METHODS)}")
    return two_means(x).named(positive).assign(y) == answers


def cosines(a: Float[Tensor, "*k d"], b: Float[Tensor, "*m d"]) -> Tensor:
    """Return the signed cosine of each vector of ``a`` with each of ``b``, [*k *m] (section 3.2)."""
    flat = unit(a.double()).reshape(-1, a.shape[-1]) @ unit(b.double()).reshape(-1, b.shape[-1]).T
    return flat.view(*a.shape[:-1], *b.shape[:-1])


def similarity(
    method: str, train: tuple[Tensor, Bool[Tensor, " n"]], test: tuple[Tensor, Bool[Tensor, " m"]]
) -> Float[Tensor, " *b"]:
    """Return the cosine of the direction fitted on the training rows [*b n d] with that fitted on the test rows themselves."""
    return (fit(method, *train).unit * fit(method, *test).unit).sum(-1)


def resolve(vector: Float[Tensor, "*b d"], onto: Float[Tensor, "*b d"]) -> tuple[Tensor, Tensor]:
    """Return the part of a vector along another one, and the rest: ``para`` and ``ortho`` of section 3.4."""
    axis = unit(onto)
    along = (vector * axis).sum(-1, keepdim=True) * axis
    return along, vector - along


def p_value(values: Float[Tensor, " draws"], found: float) -> float:
    """Return the share of a null distribution that reaches what was found, the finding itself counted (section 8)."""
    return (1 + int((values >= found).sum())) / (1 + len(values))
