"""Principal components, with signs that do not depend on the solver."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Components(NamedTuple):
    """``mean`` [d], ``axes`` [k d] (orthonormal), ``scores`` [n k], ``ratios`` [k]: shares of the variance."""

    mean: Tensor
    axes: Tensor
    scores: Tensor
    ratios: Tensor


def principal_components(x: Float[Tensor, "n d"], k: int, along: Float[Tensor, " n"] | None = None) -> Components:
    """Return the first k principal components of the rows, in float64.

    The sign of a component is arbitrary: here it correlates positively with ``along``, or its largest loading is positive.
    """
    x = x.double()
    mean = x.mean(0)
    _, s, axes = torch.linalg.svd(x - mean, full_matrices=False)
    scores = (x - mean) @ axes[:k].T
    if along is not None:
        signs = torch.sign(scores.T @ (along.double() - along.double().mean()))
    else:
        signs = torch.sign(axes[:k].gather(1, axes[:k].abs().argmax(1, keepdim=True)))[:, 0]
    signs = torch.where(signs == 0, 1.0, signs)
    return Components(mean, axes[:k] * signs[:, None], scores * signs, s[:k] ** 2 / (s**2).sum())
