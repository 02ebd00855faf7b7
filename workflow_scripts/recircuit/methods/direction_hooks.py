"""Patching along directions of the residual stream, edits of the stream between layers, and logit differences.

Sentiment, sections 3.0, 3.4, 3.8, 3.12 and 3.13. "Layer l" is the stream that enters layer l; layer L, of a model of L layers,
is the one that the final norm reads. Prompts that run together have one length and no padding.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recircuit.core.model import Model, at, attend, attention_out, embed, layer_norm, mlp, mlp_input, project
from recircuit.core.stats import stream
from recircuit.methods.attention import pattern
from recircuit.methods.directions import unit
from recircuit.runs.budget import in_chunks
from recircuit.runs.forward import layer_step

Change = Callable[[int, Tensor], Tensor]  # from a layer and the stream leaving it [n T d] to the stream that goes on

# ---- metrics: one logit difference per prompt, and what is made of them (section 3.0) ------------------------------


def logit_difference(logits: Float[Tensor, "*b n a 2"]) -> Float[Tensor, "*b n"]:
    """Return the mean over answer pairs of correct less incorrect, from the logits (correct, incorrect) of each pair."""
    return (logits[..., 0] - logits[..., 1]).mean(-1)


def probability_difference(logits: Float[Tensor, "n V"], answers: Int[Tensor, "n a 2"]) -> Float[Tensor, " n"]:
    """Return the same of probabilities."""
    probabilities = logits.double().softmax(-1)
    return logit_difference(probabilities.gather(1, answers.flatten(1)).view(answers.shape))


def denoising(
    patched: Float[Tensor, "*b n"], clean: Float[Tensor, " n"], corrupted: Float[Tensor, " n"]
) -> Float[Tensor, " *b"]:
    """Return how much of the clean run's logit difference came back, in percent: 0 as corrupted, 100 as clean."""
    patched, clean, corrupted = (part.double().mean(-1) for part in (patched, clean, corrupted))
    return 100 * (patched - corrupted) / (clean - corrupted)


def noising(patched: Float[Tensor, "*b n"], clean: Float[Tensor, " n"], corrupted: Float[Tensor, " n"]) -> Tensor:
    """Return how much was lost [*b], as a fraction: 0 intact, -1 as corrupted."""
    return denoising(patched, clean, corrupted) / 100 - 1


def bias(differences: Float[Tensor, "*b n"], positive: Bool[Tensor, " n"]) -> Float[Tensor, " *b"]:
    """Return how much the model prefers the positive answers whatever the prompt: mean of s LD, s = 1 or -1 by class."""
    return (differences.double() * _signs(positive)).mean(-1)


def centred(differences: Float[Tensor, "*b n"], positive: Bool[Tensor, " n"]) -> Float[Tensor, "*b n"]:
    """Return logit differences without that preference, LD - s bias, each row of them with its own."""
    return differences.double() - _signs(positive) * bias(differences, positive)[..., None]


def _signs(positive: Bool[Tensor, " n"]) -> Float[Tensor, " n"]:
    return torch.where(positive, 1.0, -1.0).double()


def accuracy(differences: Float[Tensor, "*b n"]) -> Float[Tensor, " *b"]:
    """Return the share of prompts whose logit difference is positive."""
    return (differences > 0).double().mean(-1)


def logit_flip(
    patched: Float[Tensor, "*b n"],
    clean: Float[Tensor, " n"],
    corrupted: Float[Tensor, " n"],
    positive: Bool[Tensor, " n"] | None = None,
) -> Float[Tensor, " *b"]:
    """Return how much of the clean run's accuracy came back, in percent.

    With ``positive`` each run is centred over all prompts first; the authors do so within a batch.
    """
    runs = (patched, clean, corrupted) if positive is None else (centred(run, positive) for run in (patched, clean, corrupted))
    patched, clean, corrupted = (accuracy(run) for run in runs)
    return 100 * (patched - corrupted) / (clean - corrupted)


# ---- from a stream to logit differences -----------------------------------------------------------------------------


@dataclass(frozen=True)
class PromptPairs:
    """Clean and corrupted prompts [n T], the position [n] to read, and the clean prompts' (correct, incorrect) [n a 2]."""

    clean: Tensor
    corrupted: Tensor
    end: Tensor
    answers: Tensor

    def __len__(self) -> int:
        return len(self.clean)

    def rows(self, chosen: slice | Tensor) -> "PromptPairs":
        """Return some of the pairs."""
        return PromptPairs(*(part[chosen] for part in (self.clean, self.corrupted, self.end, self.answers)))


def readout(model: Model, answers: Int[Tensor, "n a 2"]) -> Float[Tensor, "n d"]:
    """Return the vectors whose product with the normed final stream is the logit difference: no other logit is needed."""
    rows = model.unembedding[answers]  # [n a 2 d]
    return (rows[:, :, 0] - rows[:, :, 1]).mean(1)


def read(model: Model, x: Float[Tensor, "*b n d"], vectors: Float[Tensor, "n d"]) -> Float[Tensor, "*b n"]:
    """Return the logit differences of final streams, ``vectors`` those of ``readout``."""
    return (layer_norm(model.final_norm, x, model.spec.eps) * vectors).sum(-1)


def centred_width(model: Model, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
    """Take the mean over coordinates off: the stream of the paper's models, whose writing weights are centred (1.2).

    LayerNorm does so itself, and no output depends on it; RMSNorm reads that mean, so that it stays.
    """
    return x if model.final_norm.bias is None else x - x.mean(-1, keepdim=True)


def norm_scale(model: Model, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b 1"]:
    """Return what the final norm divides a stream by."""
    return (centred_width(model, x).square().mean(-1, keepdim=True) + model.spec.eps).sqrt()


def streams(model: Model, tokens: Int[Tensor, "n T"]) -> tuple[Float[Tensor, "n T d"], ...]:
    """Return the stream that enters each layer, and the final one: L + 1 of them."""
    found = [embed(model, tokens)]
    for layer in range(model.spec.n_layers):
        found.append(layer_step(model, layer, found[-1])[0])
    return tuple(found)


@dataclass(frozen=True)
class Past:
    """Keys and values, each [n H start e], of the positions before ``start``, by layer; nothing where it is 0."""

    start: int
    layers: Mapping[int, tuple[Tensor, Tensor]]

    @classmethod
    def of(cls, model: Model, entered: Sequence[Tensor], start: int, layers: Iterable[int]) -> "Past":
        """Compute them from the streams that enter each layer."""
        chosen = layers if start else ()
        return cls(start, {layer: project(model, layer, entered[layer][:, :start])[1:] for layer in chosen})

    def before(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Put them before keys and values of m n rows, m copies of all prompts one after the other."""
        if not self.start:
            return k, v
        copies = len(k) // len(self.layers[layer][0])
        return tuple(
            torch.cat([old.repeat(copies, 1, 1, 1), new], 2) for old, new in zip(self.layers[layer], (k, v), strict=True)
        )


def close_layer(model: Model, layer: int, x: Tensor, q: Tensor, k: Tensor, v: Tensor, end: Tensor | None = None) -> Tensor:
    """Return the stream [n S d] leaving a layer at the last S positions: theirs are ``x`` and the queries, k and v are of all.

    With ``end`` [n], counted from the first of the S, only that position is computed, [n 1 d].
    """
    block, length = model.blocks[layer], k.shape[2]
    every = torch.arange(length, device=x.device)
    seen = (every <= every[length - q.shape[2] :, None])[None]  # [1 S T]
    if end is not None:
        q, x = q[torch.arange(len(q), device=q.device), :, end][:, :, None], at(x, end)[:, None]
        seen = seen[0, end][:, None]
    z = attend(q, k, v, seen.expand(len(q), -1, -1))
    mid = x + attention_out(block.heads, z) + block.out_bias
    return mid + mlp(model, layer, mlp_input(model, x, mid))


def run_on(model: Model, x: Float[Tensor, "n S d"], layer: int, past: Past, end: Int[Tensor, " n"]) -> Float[Tensor, "n d"]:
    """Run the last S positions from the stream entering a layer; return the final stream at ``end``, counted from the first."""
    last = model.spec.n_layers - 1
    for later in range(layer, last + 1):
        q, k, v = project(model, later, x, start=past.start)
        x = close_layer(model, later, x, q, *past.before(later, k, v), end if later == last else None)
    return x[:, 0] if layer <= last else at(x, end)


# ---- patching along directions (section 3.4) ------------------------------------------------------------------------


class Patch(NamedTuple):
    """What goes into the corrupted stream: ``along`` times P (x_c - x_k), and ``across`` times the rest of x_c - x_k.

    P projects on the orthonormal columns of ``frame`` [d k]. (1, 0) is the published patch, (a, 0) a weaker or stronger one,
    (0, 1) patches the orthogonal complement, (1, 1) everything.
    """

    frame: Float[Tensor, "d k"]
    along: float = 1.0
    across: float = 0.0


class Patched(NamedTuple):
    """Logit differences of clean and corrupted runs [n] and, by layer, of the patched ones [m n].

    ``shares`` is |P D|^2 [m n] and ``wholes`` |D|^2 [n] by layer, D = x_c - x_k over the patched positions: how much of the
    difference a subspace holds.
    """

    clean: Tensor
    corrupted: Tensor
    patched: dict[int, Tensor]
    shares: dict[int, Tensor]
    wholes: dict[int, Tensor]


def frame_of(vectors: Float[Tensor, "*k d"]) -> Float[Tensor, "d k"]:
    """Return an orthonormal frame of the span of one vector [d], or of several [k d]."""
    return unit(vectors)[:, None] if vectors.dim() == 1 else torch.linalg.qr(vectors.T).Q


def stack_frames(patches: Sequence[Patch], like: Tensor) -> Float[Tensor, "m d k"]:
    """Stack frames of several widths, the narrower filled up with zeros, which project on nothing.

    Raises ValueError for columns that are not orthonormal.
    """
    widest = max(patch.frame.shape[1] for patch in patches)
    frames = torch.stack([F.pad(patch.frame.to(like), (0, widest - patch.frame.shape[1])) for patch in patches])
    gram = frames.mT @ frames
    wanted = torch.stack([(torch.arange(widest) < patch.frame.shape[1]).diag() for patch in patches]).to(gram)
    if float((gram - wanted).abs().max()) > 1e-3:
        raise ValueError("a frame's columns are not orthonormal; make them so with frame_of")
    return frames


@torch.inference_mode()
def directional_patching(
    model: Model,
    pairs: PromptPairs,
    patches: Mapping[int, Sequence[Patch]],
    chunk: int,
    positions: Bool[Tensor, "n T"] | None = None,
) -> Patched:
    """Run corrupted prompts with x_k + P (x_c - x_k) in the stream entering one layer, for each patch of each layer (3.4).

    At all positions at once, or at some. Every run starts at its layer and at the first position at which the prompts differ;
    as many patches as ``chunk`` prompts allow run in one batch.
    """
    parts = [
        part for _, part in in_chunks(lambda rows: _patch(model, pairs, patches, chunk, positions, rows), len(pairs), chunk)
    ]
    joined = (torch.cat(column) for column in list(zip(*parts, strict=True))[:2])
    by_layer = ({layer: torch.cat([part[i][layer] for part in parts], -1) for layer in patches} for i in (2, 3, 4))
    return Patched(*joined, *by_layer)


def _patch(model: Model, pairs: PromptPairs, patches, chunk: int, positions: Tensor | None, rows: slice) -> Patched:
    part = pairs.rows(rows)
    clean, corrupted, vectors = streams(model, part.clean), streams(model, part.corrupted), readout(model, part.answers)
    ends = (read(model, at(found[-1], part.end), vectors) for found in (clean, corrupted))
    start, stop = span(part)
    past = Past.of(model, corrupted, start, range(min(patches, default=0), model.spec.n_layers))
    done, shares, wholes = {}, {}, {}
    for layer, chosen in patches.items():
        x = corrupted[layer][:, start:stop]
        delta = clean[layer][:, start:stop] - x
        if positions is not None:
            delta = delta * positions[rows, start:stop, None]
        found = [
            _patch_group(model, layer, x, delta, some, past, part.end - start, vectors)
            for some in groups(chosen, max(1, chunk // len(part)))
        ]
        done[layer], shares[layer] = (torch.cat(column) for column in zip(*found, strict=True))
        wholes[layer] = delta.square().sum((1, 2))
    return Patched(*ends, done, shares, wholes)


def span(pairs: PromptPairs) -> tuple[int, int]:
    """Return the first position that patching can change, and the first that nothing reads."""
    differ = (pairs.clean != pairs.corrupted).any(0).nonzero()
    return min([*differ[:1, 0].tolist(), int(pairs.end.min())]), int(pairs.end.max()) + 1


def groups(items: Sequence, size: int) -> list[Sequence]:
    """Cut a sequence into parts of ``size`` items, the last one shorter."""
    return [items[i : i + size] for i in range(0, len(items), size)]


def _patch_group(
    model, layer: int, x: Tensor, delta: Tensor, patches: Sequence[Patch], past: Past, end: Tensor, vectors: Tensor
):
    """Return logit differences and |P D|^2, both [m n], of patches in one batch."""
    frames = stack_frames(patches, x)
    along, across = (x.new_tensor(weights)[:, None, None, None] for weights in zip(*(p[1:] for p in patches), strict=True))
    coordinates = torch.einsum("nsd,mdk->mnsk", delta, frames)
    inside = torch.einsum("mnsk,mdk->mnsd", coordinates, frames)
    patched = x + across * delta + (along - across) * inside
    final = run_on(model, patched.flatten(0, 1), layer, past, end.repeat(len(patches)))
    return read(model, final.unflatten(0, (len(patches), -1)), vectors), coordinates.square().sum((2, 3))


# ---- edits of the stream that leaves every layer (sections 3.8, 3.12, 3.13) ----------------------------------------


def leaving(directions: Float[Tensor, "L+1 d"], variant: Literal["published", "aligned"]) -> Float[Tensor, "L d"]:
    """Return the direction for the stream leaving each layer, from those of the streams entering layers 0 to L.

    Published: that of layer l for the stream leaving l, one layer late. Aligned: that of layer l + 1, and none for the last
    layer (a zero vector: nothing is removed), for which no direction is trained. Row L is not used.
    """
    unused = torch.zeros_like(directions[:1])
    return directions[:-1] if variant == "published" else torch.cat([directions[1:-1], unused])


def remove(directions: Float[Tensor, "L d"], values: Float[Tensor, " L"] | None = None) -> Change:
    """Return the directional ablation x - <x, d> d, or with values x - (<x, d> - value) d; of each layer its own."""
    axes = unit(directions)

    def change(layer: int, x: Tensor) -> Tensor:
        d = axes[layer].to(x)
        excess = x @ d - (0.0 if values is None else values[layer].to(x))
        return x - excess[..., None] * d

    return change


def to_mean(means: Float[Tensor, "L d"]) -> Change:
    """Return the mean ablation: every token's stream becomes the mean of its layer."""
    return lambda layer, x: means[layer].to(x).expand_as(x)


def to_mean_but(means: Float[Tensor, "L d"], directions: Float[Tensor, "L d"], *, added: bool = False) -> Change:
    """Return the inverse ablation: the mean of the layer with the token's own projection on the direction.

    ``added`` adds that projection to the mean's, which then counts twice where the mean has one; else it takes its place.
    """
    axes = unit(directions)

    def change(layer: int, x: Tensor) -> Tensor:
        d, mean = axes[layer].to(x), means[layer].to(x)
        own = x @ d if added else (x - mean) @ d
        return mean + own[..., None] * d

    return change


def partners(n: int, n_layers: int, seed: int) -> Int[Tensor, "L n"]:
    """Draw a permutation of the rows of a batch for each layer."""
    rng = stream(seed, "partners")
    return torch.stack([torch.from_numpy(rng.permutation(n)) for _ in range(n_layers)])


def resample(directions: Float[Tensor, "L d"], others: Int[Tensor, "L n"]) -> Change:
    """Return the ablation that gives each row the projection of another one of the batch, x + (<x', d> - <x, d>) d (3.13)."""
    axes = unit(directions)

    def change(layer: int, x: Tensor) -> Tensor:
        d = axes[layer].to(x)
        own = x @ d
        return x + (own[others[layer].to(x.device)] - own)[..., None] * d

    return change


def shift(vector: Float[Tensor, " d"], layer: int) -> Change:
    """Return steering: ``vector`` is added to the stream leaving one layer (3.12)."""
    return lambda current, x: x + vector.to(x) if current == layer else x


def steered(model: Model, vector: Float[Tensor, " d"], layer: int) -> Model:
    """Return a model that adds ``vector`` to the stream leaving a layer at every position, those it writes included.

    A constant is a bias: the MLP's output bias takes it, so that any run, with cached keys or without, is steered.
    """
    block, own = model.blocks[layer], vector.to(model.tokens)
    moved = block._replace(down_bias=own if block.down_bias is None else block.down_bias + own)
    return replace(model, blocks=(*model.blocks[:layer], moved, *model.blocks[layer + 1 :]))


def frozen_step(
    model: Model, layer: int, x: Float[Tensor, "n T d"], weights: Float[Tensor, "n H T T"]
) -> Float[Tensor, "n T d"]:
    """Run one layer with given attention patterns."""
    block = model.blocks[layer]
    z = (weights.to(x) @ project(model, layer, x)[2]).transpose(1, 2)
    mid = x + attention_out(block.heads, z) + block.out_bias
    return mid + mlp(model, layer, mlp_input(model, x, mid))


@torch.inference_mode()
def edited_stream(
    model: Model,
    tokens: Int[Tensor, "n T"],
    change: Change,
    mask: Bool[Tensor, "n T"] | None = None,
    *,
    frozen: bool = False,
) -> Float[Tensor, "n T d"]:
    """Return the final stream of a run whose stream is changed after every layer, at the tokens of a mask or at all (3.8).

    ``frozen``: every head attends as in the run without changes.
    """
    x = plain = embed(model, tokens)
    for layer in range(model.spec.n_layers):
        if frozen:
            x, plain = frozen_step(model, layer, x, pattern(model, layer, plain)), layer_step(model, layer, plain)[0]
        else:
            x = layer_step(model, layer, x)[0]
        changed = change(layer, x)
        x = changed if mask is None else torch.where(mask[..., None], changed, x)
    return x


@torch.inference_mode()
def edited_differences(
    model: Model,
    tokens: Int[Tensor, "n T"],
    end: Int[Tensor, " n"],
    answers: Int[Tensor, "n a 2"],
    change: Change,
    chunk: int,
    mask: Bool[Tensor, "n T"] | None = None,
    *,
    frozen: bool = False,
) -> Float[Tensor, " n"]:
    """Return the logit differences of such a run, a chunk of prompts at a time.

    Not for ``resample``, whose rows belong together: it needs ``edited_stream`` on a whole batch.
    """

    def run(rows: slice) -> Tensor:
        x = edited_stream(model, tokens[rows], change, None if mask is None else mask[rows], frozen=frozen)
        return read(model, at(x, end[rows]), readout(model, answers[rows]))

    return torch.cat([part for _, part in in_chunks(run, len(tokens), chunk)])


@torch.inference_mode()
def masked_means(model: Model, batches: Iterable[tuple[Tensor, Tensor]]) -> Float[Tensor, "L d"]:
    """Return the mean stream leaving each layer over the masked tokens of batches of (tokens, mask), both [n T], in float64.

    Raises ValueError when no token is masked.
    """
    total, count = None, 0
    for tokens, mask in batches:
        sums = torch.stack([x[mask].double().sum(0) for x in streams(model, tokens)[1:]])
        total, count = sums if total is None else total + sums, count + int(mask.sum())
    if not count:
        raise ValueError("no token is in the mask; there is nothing to take a mean of")
    return total / count


@torch.inference_mode()
def next_token_losses(model: Model, final: Float[Tensor, "n T d"], tokens: Int[Tensor, "n T"]) -> Float[Tensor, "n T-1"]:
    """Return the loss in nats of each token but the first, from the final stream; one row's logits at a time (3.13)."""
    losses = [
        F.cross_entropy(layer_norm(model.final_norm, row[:-1], model.spec.eps) @ model.unembedding.T, own[1:], reduction="none")
        for row, own in zip(final, tokens, strict=True)
    ]
    return torch.stack(losses)
