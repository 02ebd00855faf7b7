"""Linear and non-linear probes of activations, and counterfactual embeddings made with them (spec 3.4 and 3.5)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from recircuit.methods.masks import LoaderOrder, batches

RATE, DECAY, BATCH, EPOCHS, HIDDEN = 0.1, 0.01, 500, 100, 256
Kind = Literal["linear", "nonlinear"]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Give modules made inside the initial weights of ``torch.manual_seed(seed)``, and leave the global stream as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def fresh_probe(kind: Kind, width: int, classes: int, seed: int) -> nn.Sequential:
    """Return an untrained probe: one linear map, or two with a ReLU between them."""
    with seeded(seed):
        if kind == "linear":
            return nn.Sequential(nn.Linear(width, classes))
        return nn.Sequential(nn.Linear(width, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, classes))


def fit_probe(
    kind: Kind, x: Float[Tensor, "n d"], labels: Int[Tensor, " n"], classes: int, seed: int, epochs: int = EPOCHS
) -> nn.Sequential:
    """Train a probe with AdamW on shuffled batches of 500; rows beyond the last whole batch of a pass are left out."""
    probe = fresh_probe(kind, x.shape[1], classes, seed).to(device=x.device, dtype=x.dtype)
    optimizer = torch.optim.AdamW(probe.parameters(), lr=RATE, weight_decay=DECAY, fused=True)
    order = LoaderOrder(seed)
    for _ in range(epochs):
        for rows in batches(order.shuffled(len(x)).to(x.device), BATCH):
            optimizer.zero_grad()
            F.cross_entropy(probe(x[rows]), labels[rows]).backward()
            optimizer.step()
    return probe.requires_grad_(requires_grad=False)


def fit_whole(x: Float[Tensor, "n d"], labels: Int[Tensor, " n"], classes: int, seed: int, steps: int = 100) -> nn.Sequential:
    """Train a linear probe on all rows at once, as amnesic probing does before and after erasure."""
    probe = fresh_probe("linear", x.shape[1], classes, seed).to(device=x.device, dtype=x.dtype)
    optimizer = torch.optim.AdamW(probe.parameters(), lr=RATE, weight_decay=DECAY, fused=True)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(probe(x), labels).backward()
        optimizer.step()
    return probe.requires_grad_(requires_grad=False)


class Score(NamedTuple):
    """Mean cross-entropy in nats, and accuracy."""

    loss: float
    accuracy: float


@torch.inference_mode()
def probe_score(probe: nn.Module, x: Float[Tensor, "n d"], labels: Int[Tensor, " n"]) -> Score:
    """Return how well a probe reads labels."""
    logits = probe(x)
    return Score(float(F.cross_entropy(logits.double(), labels)), float((logits.argmax(1) == labels).double().mean()))


def counterfactual_embeddings(
    probe: nn.Module, x: Float[Tensor, "n d"], wanted: Int[Tensor, " n"], steps: int = 100
) -> Float[Tensor, "n d"]:
    """Return activations that a frozen probe reads as ``wanted``: each row descends from its own by AdamW on the cross-entropy.

    AdamW works element by element, so that one tensor of all rows, with the summed loss, equals the rows one by one.
    """
    found = x.clone().requires_grad_()
    optimizer = torch.optim.AdamW([found], lr=RATE, weight_decay=DECAY, fused=True)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(probe(found), wanted, reduction="sum").backward()
        optimizer.step()
    return found.detach()
