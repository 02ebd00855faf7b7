"""Distributed alignment search for one direction, or a few, at one position of the stream entering one layer.

Sentiment, section 3.1: h = h_k + P (h_c - h_k) takes the place of the corrupted prompts' vector h_k, P projects on the first
columns of an orthogonal matrix, and the loss is what is missing of the clean prompts' logit difference, 1 - denoising fraction.
The published search turns the whole space, a matrix exponential of d x d parameters; the fast one holds the frame alone, which
spans the same subspaces by another path. Either runs only what the patched vector can reach.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recircuit.core.model import Model, at, project
from recircuit.methods.direction_hooks import Past, PromptPairs, close_layer, read, readout, run_on, streams

Kind = Literal["rotation", "frame"]  # the published parameters, or the frame's own

# A step of Adam moves each of the d^2 parameters of a rotation by its rate, and all of them move the frame: of its own d
# parameters as many steps get as far only at a higher rate.
RATES = {"rotation": 1e-3, "frame": 1e-2}


@dataclass(frozen=True)
class Recipe:
    """How a search is trained; Adam's other choices are torch's. Without a rate it is that of RATES."""

    rate: float | None = None
    epochs: int = 64
    clip: float = 1.0
    seed: int = 0


class Batch(NamedTuple):
    """Vectors of clean and corrupted prompts [n d], the logit differences [n] that a vector leads to in the corrupted prompts,
    and those of the two runs as they are, [n 2].
    """

    clean: Tensor
    corrupted: Tensor
    differences: Callable[[Tensor], Tensor]
    ends: Tensor


class Point(NamedTuple):
    """The losses of the frame after ``step`` steps: of the batch that comes next, and at a pass's beginning of another set."""

    step: int
    train: float
    evaluation: float | None


class Found(NamedTuple):
    """What a search found: an orthonormal frame [d k] after the last epoch, and the losses on the way."""

    frame: Tensor
    history: tuple[Point, ...]


# ---- what a patched vector can reach --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Site:
    """Corrupted prompts, run on from one vector: everything that it cannot change is here already.

    ``x`` [n S-1 d] enters the layer after the patched position, with its queries, keys and values [n H S-1 e]; ``past`` has the
    keys and values before it; ``end`` [n] is counted from the patched position; ``vectors`` [n d] read the logit difference.
    """

    model: Model
    layer: int
    x: Tensor
    rest: tuple[Tensor, Tensor, Tensor]
    past: Past
    end: Int[Tensor, " n"]
    vectors: Tensor

    def __call__(self, h: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Return the logit differences with ``h`` at the site."""
        own = project(self.model, self.layer, h[:, None], start=self.past.start)
        q, k, v = (torch.cat(pair, 2) for pair in zip(own, self.rest, strict=True))
        last = self.layer == self.model.spec.n_layers - 1
        x, end = torch.cat([h[:, None], self.x], 1), self.end if last else None
        x = close_layer(self.model, self.layer, x, q, *self.past.before(self.layer, k, v), end)
        final = x[:, 0] if last else run_on(self.model, x, self.layer + 1, self.past, self.end)
        return read(self.model, final, self.vectors)


@torch.no_grad()
def batches_at(model: Model, pairs: PromptPairs, layers: Iterable[int], position: int) -> dict[int, Batch]:
    """Return the batch of some prompt pairs at one position of the streams entering some layers.

    Raises ValueError where the vector cannot reach the answer: after the last layer, or after the position that is read.
    """
    layers, last = list(layers), model.spec.n_layers - 1
    if max(layers) > last or min(layers) < 0 or position > int(pairs.end.min()):
        raise ValueError(f"a vector at position {position} of layer {max(layers)} does not reach the answer at the end")
    clean, corrupted = streams(model, pairs.clean), streams(model, pairs.corrupted)
    vectors, stop = readout(model, pairs.answers), int(pairs.end.max()) + 1
    ends = torch.stack([read(model, at(found[-1], pairs.end), vectors) for found in (clean, corrupted)], 1)
    past = Past.of(model, corrupted, position, range(min(layers), last + 1))
    found = {}
    for layer in layers:
        x = corrupted[layer][:, position + 1 : stop]
        rest = project(model, layer, x, start=position + 1) if x.shape[1] else _nothing(model, x)
        site = Site(model, layer, x, rest, past, pairs.end - position, vectors)
        found[layer] = Batch(clean[layer][:, position], corrupted[layer][:, position], site, ends)
    return found


def _nothing(model: Model, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the queries, keys and values of no position."""
    return (x.new_zeros(len(x), model.spec.n_heads, 0, model.spec.d_head),) * 3


# ---- the search -----------------------------------------------------------------------------------------------------


def initial(width: int, seed: int) -> Float[Tensor, "d d"]:
    """Return the parameter that a search begins with: a random orthogonal matrix, as torch draws it on the CPU."""
    return torch.nn.init.orthogonal_(torch.empty(width, width), generator=torch.Generator().manual_seed(seed))


def rotation_frame(free: Float[Tensor, "d d"], dims: int) -> Float[Tensor, "d k"]:
    """Return the first columns of exp(A - A^T), A the lower triangle of the parameter.

    This is torch's orthogonal parametrisation without trivialisation: it begins not at the orthogonal matrix that the parameter
    is, but at the exponential of its skew part.
    """
    lower = free.tril(-1)
    return torch.matrix_exp(lower - lower.T)[:, :dims]


def orthonormal(free: Float[Tensor, "d k"]) -> Float[Tensor, "d k"]:
    """Return the columns made orthonormal one after the other; one column is divided by its length."""
    if free.shape[1] == 1:
        return free / free.norm()
    q, r = torch.linalg.qr(free)
    return q * r.diagonal().sign()  # QR leaves the signs open; this is Gram and Schmidt's


def patch(frame: Float[Tensor, "d k"], clean: Float[Tensor, "n d"], corrupted: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Return the corrupted vectors with the clean ones' part in the subspace."""
    return corrupted + ((clean - corrupted) @ frame) @ frame.T


def missing(differences: Float[Tensor, " n"], ends: Float[Tensor, "m 2"]) -> Float[Tensor, ""]:
    """Return 1 - the denoising fraction, by the mean logit differences (clean, corrupted) of the whole set."""
    clean, corrupted = ends.mean(0)
    return (differences.mean() - clean) / (corrupted - clean)


def loss_of(frame: Float[Tensor, "d k"], batches: Sequence[Batch]) -> Float[Tensor, ""]:
    """Return the loss of a frame on all prompts of some batches: 1 when it has no column."""
    found = [batch.differences(patch(frame, batch.clean, batch.corrupted)) for batch in batches]
    return missing(torch.cat(found), torch.cat([batch.ends for batch in batches]))


def search(train: Sequence[Batch], dims: int, recipe: Recipe, kind: Kind = "frame", evaluation: Sequence[Batch] = ()) -> Found:
    """Search for the subspace of ``dims`` dimensions that carries most of the logit difference; the last epoch's counts.

    Batches come in their order, one step each; both kinds begin with the same frame.
    """
    like, width = train[0].clean, train[0].clean.shape[1]
    free = initial(width, recipe.seed).to(like)
    if kind == "frame":
        free = rotation_frame(free, dims).contiguous()
    free.requires_grad_()

    def frame() -> Float[Tensor, "d k"]:
        return orthonormal(free) if kind == "frame" else rotation_frame(free, dims)

    optimizer = torch.optim.Adam([free], lr=recipe.rate or RATES[kind], fused=True)
    ends, history = torch.cat([batch.ends for batch in train]), []
    for step in range(recipe.epochs * len(train)):
        batch = train[step % len(train)]
        now = frame()
        loss = missing(batch.differences(patch(now, batch.clean, batch.corrupted)), ends)
        other = _evaluate(now, evaluation) if step % len(train) == 0 else None
        history.append(Point(step, float(loss.detach()), other))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([free], recipe.clip)
        optimizer.step()
    with torch.no_grad():
        now = frame()
        history.append(Point(recipe.epochs * len(train), float(loss_of(now, train)), _evaluate(now, evaluation)))
    return Found(now, tuple(history))


@torch.no_grad()
def _evaluate(frame: Tensor, batches: Sequence[Batch]) -> float | None:
    return float(loss_of(frame, batches)) if batches else None
