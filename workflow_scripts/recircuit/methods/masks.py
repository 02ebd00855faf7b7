"""Circuit probing: a binary mask over the columns of one block's two matrices, so that its updates cluster by a variable.

A column's weights are scaled by a gate m, its bias never, which is h' = b + m (h - b) for h = x W + b. The mask is trained by
continuous sparsification: m = sigmoid(T s) with a temperature that rises from 1 to almost 200, a loss of soft nearest
neighbours on the block's residual update at the read position, and a price for every weight kept; after training m = 1[s > 0]
(Lepori et al., spec 3.1). All upstream of the block is frozen and nothing downstream matters, so that x W is computed once.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recircuit.core.model import ACTIVATIONS
from recircuit.methods.one_layer import mix

EPSILON = 1e-5  # beside both sums of the loss, so that a row alone of its class costs a finite amount


class Mask(NamedTuple):
    """One value per column of the first and of the second matrix."""

    first: Float[Tensor, " c1"]
    second: Float[Tensor, " c2"]

    def hard(self) -> "Mask":
        """Return 1 for positive scores and 0 for the others."""
        return Mask(*((part > 0).to(part.dtype) for part in self))

    def complement(self) -> "Mask":
        """Return 1 - mask: what is left when a circuit is ablated."""
        return Mask(*(1 - part for part in self))


class Cached(Protocol):
    """A block with what it reads computed once, for all rows, at the positions that matter."""

    fan_in: tuple[int, int]
    n_columns: tuple[int, int]

    def __len__(self) -> int: ...

    def update(self, rows: Tensor | slice, mask: Mask) -> Float[Tensor, "n d"]:
        """Return the block's residual update at the read position, gated."""
        ...


@dataclass(frozen=True)
class CachedAttention:
    """x W of queries (at the read position), keys and values (at all), before their biases."""

    q: Float[Tensor, "N d"]
    k: Float[Tensor, "N T d"]
    v: Float[Tensor, "N T d"]
    seen: Bool[Tensor, "N T"]  # the positions up to the read position
    biases: tuple[Tensor, Tensor, Tensor]
    out: Float[Tensor, "d d"]
    out_bias: Float[Tensor, " d"]
    n_heads: int

    @property
    def fan_in(self) -> tuple[int, int]:
        """Weights of a column of either matrix."""
        return self.out.shape[1], self.out.shape[0]

    @property
    def n_columns(self) -> tuple[int, int]:
        """Columns of the q, k, v matrix and of the output matrix."""
        return 3 * self.out.shape[0], self.out.shape[1]

    def __len__(self) -> int:
        return len(self.q)

    def update(self, rows: Tensor | slice, mask: Mask) -> Float[Tensor, "n d"]:
        """Return b_O + m2 (z W_O), z from gated queries, keys and values."""
        return self._write(rows, mask.first.chunk(3), mask.second)

    def update_here(self, rows: Tensor | slice, mask: Mask) -> Float[Tensor, "n d"]:
        """Return the same with keys and values gated at the read position only, as if the columns were whole elsewhere."""
        own = self._own(rows)[..., None]
        q_gate, *others = mask.first.chunk(3)
        return self._write(rows, (q_gate, *(torch.where(own, gate, torch.ones_like(gate)) for gate in others)), mask.second)

    def update_without_biases(self, rows: Tensor | slice, mask: Mask) -> Float[Tensor, "n d"]:
        """Return m2 (z W_O + b_O), z from activations that are gated with their biases."""
        zeros, (b_q, b_k, b_v) = tuple(torch.zeros_like(bias) for bias in self.biases), self.biases
        whole = replace(self, q=self.q + b_q, k=self.k + b_k, v=self.v + b_v, biases=zeros, out_bias=0 * self.out_bias)
        return whole.update(rows, mask) + mask.second * self.out_bias

    def _own(self, rows: Tensor | slice) -> Bool[Tensor, "n T"]:
        seen = self.seen[rows]
        return seen & (seen.cumsum(1) == seen.sum(1, keepdim=True))

    def _write(self, rows: Tensor | slice, gates: tuple[Tensor, ...], out_gate: Tensor) -> Float[Tensor, "n d"]:
        h = self.n_heads
        q, k, v = (
            (bias + gate * part[rows]).unflatten(-1, (h, -1))
            for bias, gate, part in zip(self.biases, gates, (self.q, self.k, self.v), strict=True)
        )
        scores = (k * (q * q.shape[-1] ** -0.5)[:, None]).sum(-1)  # [n T h]
        weights = scores.masked_fill(~self.seen[rows][..., None], -torch.inf).softmax(1)
        z = (weights[..., None] * v).sum(1).flatten(1)
        return self.out_bias + out_gate * (z @ self.out)


@dataclass(frozen=True)
class TableAttention(CachedAttention):
    """The same for rows that end with one token: q [1 d], and k and v [r d] of the distinct (token, position) pairs.

    ``index`` says which pairs a row has; the last pair is that of the read position. Each pair is gated once for all rows.
    """

    index: Int[Tensor, "N T"]

    def __len__(self) -> int:
        return len(self.index)

    def _own(self, rows: Tensor | slice) -> Bool[Tensor, " r"]:
        return torch.arange(len(self.k), device=self.k.device) == len(self.k) - 1

    def _write(self, rows: Tensor | slice, gates: tuple[Tensor, ...], out_gate: Tensor) -> Float[Tensor, "n d"]:
        q, k, v = (b + gate * x for b, gate, x in zip(self.biases, gates, (self.q, self.k, self.v), strict=True))
        z = mix(self.n_heads, q[0], k, v, self.index[rows])
        return self.out_bias + out_gate * (z @ self.out)


@dataclass(frozen=True)
class CachedMlp:
    """x W of the MLP's first matrix at the read position, before its bias."""

    pre: Float[Tensor, "N f"]
    bias: Float[Tensor, " f"]
    down: Float[Tensor, "f d"]
    down_bias: Float[Tensor, " d"]
    activation: str

    @property
    def fan_in(self) -> tuple[int, int]:
        """Weights of a column of either matrix."""
        return self.down.shape[1], self.down.shape[0]

    @property
    def n_columns(self) -> tuple[int, int]:
        """Columns of the first and of the second matrix."""
        return self.down.shape

    def __len__(self) -> int:
        return len(self.pre)

    def update(self, rows: Tensor | slice, mask: Mask) -> Float[Tensor, "n d"]:
        """Return b_2 + m2 (act(b_1 + m1 x W_1) W_2)."""
        hidden = ACTIVATIONS[self.activation](torch.addcmul(self.bias, mask.first, self.pre[rows]))
        return torch.addcmul(self.down_bias, mask.second, hidden @ self.down)

    def update_here(self, rows: Tensor | slice, mask: Mask) -> Float[Tensor, "n d"]:
        """Return the same: an MLP reads its own position."""
        return self.update(rows, mask)

    def update_without_biases(self, rows: Tensor | slice, mask: Mask) -> Float[Tensor, "n d"]:
        """Return m2 (m1 act(b_1 + x W_1) W_2 + b_2): activations, not weights, are gated."""
        hidden = mask.first * ACTIVATIONS[self.activation](self.bias + self.pre[rows])
        return mask.second * (self.down_bias + hidden @ self.down)


class SoftNeighbours(torch.autograd.Function):
    """The soft-nearest-neighbour loss by cosine at temperature 1, with its gradient written out (spec 3.1).

    L = -1/n sum_i log((sum_j same_ij E_ij + 1e-5) / (sum_j E_ij + 1e-5)), E_ij = exp(cos(u_i, u_j) - 1), j != i.
    """

    @staticmethod
    def forward(ctx, u: Float[Tensor, "n d"], same: Float[Tensor, "n n"]) -> Float[Tensor, ""]:
        """Return the loss; ``same`` is 1 where labels agree, 0 elsewhere and on the diagonal."""
        n, norm = len(u), u.norm(dim=1, keepdim=True)
        unit = u / norm
        near = (unit @ unit.T - 1).exp_().fill_diagonal_(0)
        own, every = (near * same).sum(1) + EPSILON, near.sum(1) + EPSILON
        a, b = own.reciprocal(), every.reciprocal()
        # dL/dcos_ij is near_ij (b_i - same_ij a_i) / n, and every cosine stands in two rows.
        slope = (a[:, None] + a).mul_(same).sub_(b[:, None]).sub_(b).mul_(near)
        towards = (slope @ unit).div_(-n)
        ctx.save_for_backward((towards - unit * (unit * towards).sum(1, keepdim=True)) / norm)
        return (every.log() - own.log()).mean()

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        """Return the gradient by the updates."""
        return grad * ctx.saved_tensors[0], None


def neighbour_loss(u: Float[Tensor, "n d"], labels: Int[Tensor, " n"]) -> Float[Tensor, ""]:
    """Return the soft-nearest-neighbour loss of updates by their labels."""
    same = (labels[:, None] == labels).to(u.dtype).fill_diagonal_(0)
    return SoftNeighbours.apply(u, same)


@dataclass(frozen=True)
class Recipe:
    """How a mask is trained. ``price`` is lambda, per weight kept; the temperature of epoch e is ``hottest`` ^ (e / epochs)."""

    price: float
    epochs: int = 90
    batch: int = 500
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    hottest: float = 200.0


class LoaderOrder:
    """The row orders that the authors' shuffled DataLoader gives after ``torch.manual_seed(seed)``.

    Each pass takes two numbers from the global stream, a base seed that nothing uses and the seed of its permutation.
    """

    def __init__(self, seed: int) -> None:
        self.rng = torch.Generator().manual_seed(seed)

    def skip(self) -> None:
        """Pass over a loader that does not shuffle."""
        torch.empty((), dtype=torch.int64).random_(generator=self.rng)

    def shuffled(self, n: int) -> Int[Tensor, " n"]:
        """Return the order of the next pass."""
        self.skip()
        seed = int(torch.empty((), dtype=torch.int64).random_(generator=self.rng))
        return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def train_mask(
    block: Cached,
    labels: Int[Tensor, " N"],
    recipe: Recipe,
    seed: int,
    frame: Callable[[int, Mask], None] | None = None,
) -> Mask:
    """Train a mask and return its scores; it keeps the columns whose score is positive.

    ``frame`` is called with each epoch's number and its gates before it, for pictures.
    """
    device, dtype = labels.device, _dtype(block)
    scores = [torch.zeros(n, device=device, dtype=dtype, requires_grad=True) for n in block.n_columns]
    optimizer = torch.optim.AdamW(scores, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)
    order = LoaderOrder(seed)
    order.skip()  # the authors evaluate the untrained mask on their test loader first
    for epoch in range(recipe.epochs):
        heat = recipe.hottest ** (epoch / recipe.epochs)
        if frame is not None:
            frame(epoch, Mask(*(torch.sigmoid(heat * s.detach()) for s in scores)))
        for rows in batches(order.shuffled(len(block)).to(device), recipe.batch):
            gates = Mask(*(torch.sigmoid(heat * s) for s in scores))
            loss = neighbour_loss(block.update(rows, gates), labels[rows])
            price = sum(fan * gate.sum() for fan, gate in zip(block.fan_in, gates, strict=True))
            optimizer.zero_grad()
            (loss + recipe.price * price).backward()
            optimizer.step()
    return Mask(*(s.detach() for s in scores))


def _dtype(block: Cached) -> torch.dtype:
    return (block.out if isinstance(block, CachedAttention) else block.down).dtype


def batches(order: Int[Tensor, " n"], size: int) -> Iterator[Tensor]:
    """Yield whole batches of an order; what is left over is dropped."""
    yield from order[: len(order) // size * size].split(size)


def kept_weights(block: Cached, mask: Mask) -> tuple[int, int]:
    """Return how many weights a hard mask keeps, and how many there are; columns count by their length."""
    kept = sum(fan * int(part.sum()) for fan, part in zip(block.fan_in, mask, strict=True))
    return kept, sum(fan * n for fan, n in zip(block.fan_in, block.n_columns, strict=True))


@torch.inference_mode()
def mean_loss(block: Cached, labels: Int[Tensor, " N"], mask: Mask, order: Tensor, batch: int, *, drop: bool) -> float:
    """Return the unweighted mean over batches of the loss with a hard mask; ``drop`` leaves out an incomplete batch."""
    parts = batches(order, batch) if drop else order.split(batch)
    losses = [float(neighbour_loss(block.update(rows, mask), labels[rows])) for rows in parts]
    return sum(losses) / len(losses)


def random_mask(circuit: Mask, rng: torch.Generator) -> tuple[Mask, bool]:
    """Draw as many columns of each matrix as a circuit has, from its complement, and tell whether both were.

    Where a circuit has more than half of a matrix its complement is too small, and the columns are drawn from all (spec 7.7).
    """
    parts, outside = [], True
    for part in circuit:
        n, free = int(part.sum()), (part == 0).nonzero().flatten()
        if n > len(free):
            outside, free = False, torch.arange(len(part), device=part.device)
        chosen = free[torch.randperm(len(free), generator=rng)[:n].to(free.device)]
        parts.append(torch.zeros_like(part).index_fill_(0, chosen, 1.0))
    return Mask(*parts), outside
