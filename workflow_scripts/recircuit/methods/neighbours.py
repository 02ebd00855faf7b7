"""The read-out of circuit probing: one nearest neighbour by cosine, with one prototype of each class (spec 3.2)."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor


def prototype_rows(labels: Int[np.ndarray, " n"], rng: np.random.RandomState) -> Int[np.ndarray, " c"]:
    """Draw one row of each class, classes in ascending order, as the authors' NumPy calls do."""
    rows = [np.flatnonzero(labels == value) for value in np.unique(labels)]
    return np.array([found[rng.choice(range(len(found)), 1, replace=False)[0]] for found in rows])


def nearest_class(prototypes: Float[Tensor, "c d"], classes: Int[Tensor, " c"], x: Float[Tensor, "n d"]) -> Int[Tensor, " n"]:
    """Return the class of the prototype with the largest cosine; between equal ones the lowest class, as listed first.

    Equal prototypes must tie although their products round differently, so that each stands for the first of its kind.
    """
    unit = torch.nn.functional.normalize(prototypes, dim=1)
    _, inverse = torch.unique(unit, dim=0, return_inverse=True)
    first = torch.full((int(inverse.max()) + 1,), len(unit), device=unit.device)
    first.scatter_reduce_(0, inverse, torch.arange(len(unit), device=unit.device), "amin")
    kept = first.sort().values
    return classes[kept][(x @ unit[kept].T).argmax(1)]  # the length of x moves no maximum


def accuracy(prototypes: Tensor, classes: Tensor, x: Tensor, labels: Int[Tensor, " n"]) -> float:
    """Return the share of rows whose nearest prototype is of their class."""
    return float((nearest_class(prototypes, classes, x) == labels).double().mean())
