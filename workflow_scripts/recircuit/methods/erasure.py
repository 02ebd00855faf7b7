"""Linear erasure of a concept from activations: LEACE, and projection away of principal components.

LEACE (Belrose et al. 2023, theorem 4.3): with whitening W = Cov(x)^(-1/2), the smallest change of x after which no linear
predictor does better than a constant is x - W^+ P W (x - mean), P the projector onto the columns of W Cov(x, z).
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

RELATIVE = 1e-7  # eigenvalues below this share of the largest are taken for noise, in float64


class Eraser(NamedTuple):
    """``x - (x - mean) @ right @ left``: ``mean`` [d], ``right`` [d k], ``left`` [k d]."""

    mean: Tensor
    right: Tensor
    left: Tensor

    def __call__(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Erase the concept."""
        mean, right, left = (part.to(x) for part in self)
        return x - (x - mean) @ right @ left


def one_hot(labels: Int[Tensor, " n"]) -> Float[Tensor, "n c"]:
    """Return labels as indicator columns, one for each value that occurs."""
    return torch.nn.functional.one_hot(torch.unique(labels, return_inverse=True)[1]).double()


def leace(x: Float[Tensor, "n d"], z: Float[Tensor, "n c"], relative: float = RELATIVE) -> Eraser:
    """Fit LEACE on activations and concept labels, in float64."""
    x, z = x.double(), z.double()
    mean, n = x.mean(0), len(x)
    centred, labels = x - mean, z - z.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / n)
    kept = values > relative * values.max()
    values, vectors = values[kept], vectors[:, kept]
    whiten = (vectors / values.sqrt()) @ vectors.T
    unwhiten = (vectors * values.sqrt()) @ vectors.T
    u, s, _ = torch.linalg.svd(whiten @ (centred.T @ labels / n), full_matrices=False)
    u = u[:, s > relative * s.max()]
    # Row form of W^+ U U^T W: the change of x is (x - mean) (W U) (U^T W^+).
    return Eraser(mean, whiten @ u, u.T @ unwhiten)


def shrunk(covariance: Float[Tensor, "d d"], n: int, epsilon: float = 0.0) -> Float[Tensor, "d d"]:
    """Return the optimal linear shrinkage of a covariance estimated from ``n`` rows (Bodnar, Gupta and Parolya 2014, eq. 2.8).

    alpha S + beta I, beta = (1 - alpha) tr(S) / d, and alpha = 1 - tr(S)^2 t / n / (|S|^2 t - t^2) with t = tr(S)^2 / d.
    ``epsilon`` is added to numerator and denominator, both products of four covariances, as concept-erasure does.
    """
    d, trace, norm = len(covariance), covariance.trace(), (covariance**2).sum()
    target = trace**2 / d
    alpha = 1 - (trace**2 * target / n + epsilon) / (norm * target - target**2 + epsilon)
    return alpha * covariance + (1 - alpha) * trace / d * torch.eye(d, dtype=covariance.dtype, device=covariance.device)


def published_leace(x: Float[Tensor, "n d"], z: Float[Tensor, "n c"], cut: float = 0.01, *, epsilon: bool = True) -> Eraser:
    """Fit LEACE as the concept-erasure package does by default, in the type of ``x`` (circuit probing, spec 3.6).

    The covariance is shrunk, directions of W Cov(x, z) with singular values up to ``cut`` stay, and where erasing would raise
    the variance it is mixed with the orthogonal projector until it does not. The package adds the machine epsilon to terms of
    the fourth order in the covariance: in float32, activations much smaller than 1 are then whitened by a multiple of the
    identity, so that the erasure is that of no covariance at all. Without ``epsilon`` it is the one that was meant.
    """
    tiny = torch.finfo(x.dtype).eps if epsilon else 0.0
    mean, n = x.mean(0), len(x)
    centred, labels = x - mean, z.to(x) - z.to(x).mean(0)
    raw = centred.T @ centred / n
    values, vectors = torch.linalg.eigh(shrunk(raw, n, tiny))
    kept = values > values.max() * len(values) * torch.finfo(x.dtype).eps
    root = torch.where(kept, values.clamp(min=0), torch.zeros_like(values)).sqrt()
    inverse = torch.where(kept, 1 / root, torch.zeros_like(root))
    whiten, unwhiten = (vectors * inverse) @ vectors.T, (vectors * root) @ vectors.T
    u, s, _ = torch.linalg.svd(whiten @ (centred.T @ labels / (n - 1)), full_matrices=False)
    u = u[:, s > cut]
    return _no_wider(Eraser(mean, whiten @ u, u.T @ unwhiten), u, shrunk(raw, n, tiny))


def _no_wider(eraser: Eraser, u: Float[Tensor, "d k"], covariance: Float[Tensor, "d d"]) -> Eraser:
    """Mix an eraser with the projection off ``u`` so that the variance does not grow; most need no mixing."""
    eye = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    oblique, straight = eye - (eraser.right @ eraser.left).T, eye - u @ u.T
    x, z = ((part @ covariance @ part.T).trace() for part in (oblique, straight))
    limit = covariance.trace()
    if x <= limit:
        return eraser
    # a^2 x + a (1 - a) y + (1 - a)^2 z = limit, for a mixture of a oblique and 1 - a straight.
    y = 2 * (oblique @ covariance @ straight.T).trace()
    root = (4 * limit * (x - y + z) - 4 * x * z + y**2).sqrt()
    low, high = ((z - y / 2 + sign * root / 2) / (x - y + z) for sign in (-1, 1))
    share = (low if low > 0 else high).clamp(0, 1)
    return Eraser(eraser.mean, (eye - share * oblique - (1 - share) * straight).T, eye)


def remove_components(mean: Float[Tensor, " d"], axes: Float[Tensor, "k d"]) -> Eraser:
    """Return the eraser that sets the coordinates along orthonormal axes to those of the mean."""
    return Eraser(mean, axes.T, axes)


def linear_r2(x: Float[Tensor, "n d"], y: Float[Tensor, " n"], before: Float[Tensor, "n d"] | None = None) -> float:
    """Return the share of y's variance that a linear function of x explains, on the same rows, in float64.

    ``before`` are the activations that x was made of by erasure: what is left of them below rounding is not looked at.
    """
    x, y = x.double() - x.double().mean(0), y.double() - y.double().mean()
    values, vectors = torch.linalg.eigh(x.T @ x)
    whole = values if before is None else torch.linalg.eigvalsh(before.double().T.cov() * (len(x) - 1))
    kept = values > RELATIVE * whole.max()
    projected = vectors[:, kept].T @ (x.T @ y) / values[kept].sqrt()
    return float((projected**2).sum() / (y**2).sum())
