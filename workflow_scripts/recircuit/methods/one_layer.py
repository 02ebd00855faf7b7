"""The one-layer transformers of circuit probing: their initial weights, and a forward pass for the last position alone.

Every row ends with the same token, so that its query is one vector, and a key or a value depends on a token and its position
only: a table of a few hundred rows holds all of them (spec 6.3). z of the last position is then a softmax over T entries of
that table, and only that position goes through the MLP and the unembedding. Exact up to the order of sums.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recircuit.core.model import ACTIVATIONS, Block, Heads, Model, Norm, Spec, affine, layer_norm


def spec_of(n_vocab: int, context: int) -> Spec:
    """Return the published shape: one layer, four heads, width 128, ReLU (spec 1.1)."""
    return Spec("gpt2", 1, 4, 128, 32, 512, context, n_vocab, 1e-5, "relu")


def published_initial(spec: Spec, seed: int) -> Model:
    """Draw the weights that transformers' ``GPT2LMHeadModel`` has after ``torch.manual_seed(seed)``, bit by bit.

    It draws every matrix when it is made and once more when the model is complete, those that write to the stream a third
    time; only the last draw counts, but all of them move the stream of random numbers.
    """
    rng = torch.Generator().manual_seed(seed)
    d, f = spec.d_model, spec.d_mlp

    def normal(*shape: int, std: float = 0.02) -> Tensor:
        return torch.empty(shape).normal_(0.0, std, generator=rng)

    def layer() -> list[Tensor]:
        return [normal(d, 3 * d), normal(d, d), normal(d, f), normal(f, d)]

    def final_layer(write: float) -> list[Tensor]:
        qkv = normal(d, 3 * d)
        _, out, up, _ = normal(d, d), normal(d, d, std=write), normal(d, f), normal(f, d)
        return [qkv, out, up, normal(f, d, std=write)]

    normal(spec.n_vocab, d, std=1.0), normal(spec.n_positions, d, std=1.0)
    for _ in range(spec.n_layers):
        layer()
    tokens, positions = normal(spec.n_vocab, d), normal(spec.n_positions, d)
    layers = [final_layer(0.02 / (2 * spec.n_layers) ** 0.5) for _ in range(spec.n_layers)]
    blocks = tuple(_block(spec, *weights) for weights in layers)
    return Model(spec, tokens, positions, blocks, _unit(d), tokens)


def _unit(width: int) -> Norm:
    return Norm(torch.ones(width), torch.zeros(width))


def _block(spec: Spec, qkv: Tensor, out: Tensor, up: Tensor, down: Tensor) -> Block:
    d, f = spec.d_model, spec.d_mlp
    q, k, v = (part.contiguous() for part in qkv.split(d, dim=1))
    heads = Heads(q, k, v, *(torch.zeros(d) for _ in range(3)), out)
    return Block(_unit(d), heads, torch.zeros(d), _unit(d), up, torch.zeros(f), down, torch.zeros(d))


class Table(NamedTuple):
    """The distinct (token, position) pairs of some rows, and for each row and position its place among them."""

    tokens: Int[Tensor, " r"]
    positions: Int[Tensor, " r"]
    index: Int[Tensor, "n T"]

    @classmethod
    def of(cls, rows: Int[Tensor, "n T"]) -> "Table":
        """Build the table. Raises ValueError when the rows do not end with one and the same token."""
        if bool((rows[:, -1] != rows[0, -1]).any()):
            raise ValueError("the rows end with different tokens; expected one and the same at the last position")
        tokens, positions, index, start = [], [], [], 0
        for place, column in enumerate(rows.T):
            values, inverse = torch.unique(column, return_inverse=True)
            tokens.append(values)
            positions.append(torch.full_like(values, place))
            index.append(inverse + start)
            start += len(values)
        return cls(torch.cat(tokens), torch.cat(positions), torch.stack(index, 1))

    def to(self, device: torch.device | str) -> "Table":
        """Return the table on another device."""
        return Table(*(part.to(device) for part in self))


class Last(NamedTuple):
    """What the last position holds: after attention, after the MLP, and the logits."""

    mid: Float[Tensor, "n d"]
    post: Float[Tensor, "n d"]
    logits: Float[Tensor, "n V"]


def table_reads(model: Model, table: Table) -> Float[Tensor, "r d"]:
    """Return what attention reads of each pair of the table: LayerNorm of token plus position."""
    x = model.tokens[table.tokens] + model.positions[table.positions]
    return layer_norm(model.blocks[0].norm1, x, model.spec.eps)


def mix(n_heads: int, q: Float[Tensor, " d"], k: Float[Tensor, "r d"], v: Float[Tensor, "r d"], index: Tensor) -> Tensor:
    """Return z [n d] of the last position: its query over the keys and values of each row's pairs."""
    h, e = n_heads, len(q) // n_heads
    scores = (k.view(-1, h, e) * (q.view(h, e) / e**0.5)).sum(-1)  # [r h]
    weights = scores[index].softmax(1)  # [n T h]
    values = torch.nn.functional.embedding(index, v).view(*index.shape, h, e)
    return (weights[..., None] * values).sum(1).flatten(1)


def stream_after_attention(model: Model, table: Table) -> Float[Tensor, "n d"]:
    """Return the residual stream of the last position after attention."""
    block, reads = model.blocks[0], table_reads(model, table)
    w = block.heads
    k, v = affine(reads, w.k, w.k_bias), affine(reads, w.v, w.v_bias)
    q = affine(reads[-1:], w.q, w.q_bias)[0]
    own = model.tokens[table.tokens[-1]] + model.positions[table.positions[-1]]
    return own + affine(mix(model.spec.n_heads, q, k, v, table.index), w.out, block.out_bias)


def after_mlp(model: Model, mid: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Return the stream after the MLP."""
    block = model.blocks[0]
    hidden = ACTIVATIONS[model.spec.activation](affine(layer_norm(block.norm2, mid, model.spec.eps), block.up, block.up_bias))
    return mid + affine(hidden, block.down, block.down_bias)


def logits_of(model: Model, post: Float[Tensor, "n d"]) -> Float[Tensor, "n V"]:
    """Return the logits of the stream after the MLP."""
    return layer_norm(model.final_norm, post, model.spec.eps) @ model.unembedding.T


def run_last(model: Model, table: Table) -> Last:
    """Run a one-layer model for the last position of each row."""
    mid = stream_after_attention(model, table)
    post = after_mlp(model, mid)
    return Last(mid, post, logits_of(model, post))
