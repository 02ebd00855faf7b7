"""Writing with a cache of keys and values, the likeliest tokens or drawn ones, while the outputs of some heads are replaced.

A token that was read once leaves its keys (rotated by position) and values behind, so that each further token costs one
position instead of the whole text. Every row may have heads of its own replaced, at all positions, those of the tokens that
are written included: many knock-outs of many prompts are one batch.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recircuit.core.errors import UserError
from recircuit.core.model import Model, Spec, attend, attention_out, embed, mlp, mlp_input, project, unembed
from recircuit.runs.budget import BLOCK, in_chunks, row_bytes


@dataclass(frozen=True)
class KnockOuts:
    """Sets of heads of which each row's is replaced: ``gone`` [S L H], and the set ``of`` [n] each row.

    ``values`` [L H e] stand for z (before W_O) of the heads that are gone; zero without them.
    """

    gone: Bool[Tensor, "S L H"]
    of: Int[Tensor, " n"]
    values: Float[Tensor, "L H e"] | None = None

    def rows(self, chosen: slice | Tensor) -> "KnockOuts":
        """Return the knock-outs of some rows."""
        return KnockOuts(self.gone, self.of[chosen], self.values)


@dataclass(frozen=True)
class Sampling:
    """Tokens drawn from the ``top`` likeliest ones by their odds, at temperature 1.

    ``draws`` [n steps] are uniform from 0 to 1, one per token to be written, so that no other row or chunk changes a text.
    """

    draws: Float[Tensor, "n steps"]
    top: int

    def rows(self, chosen: slice) -> "Sampling":
        """Return the draws of some rows."""
        return Sampling(self.draws[chosen], self.top)

    def choose(self, logits: Float[Tensor, "n V"], step: int) -> Int[Tensor, " n"]:
        """Return the tokens where the cumulated odds, the likeliest token's first, pass what was drawn."""
        found = logits.double().topk(min(self.top, logits.shape[1]))
        passed = found.values.softmax(1).cumsum(1)[:, :-1] <= self.draws[:, step, None].to(logits.device, torch.float64)
        return found.indices.gather(1, passed.sum(1, keepdim=True))[:, 0]


@dataclass
class _Batch:
    """Prompts being continued: keys and values so far of each layer [n K t e], and z's replacements."""

    model: Model
    gone: Tensor | None  # [n L H]
    values: Tensor | None
    touched: Sequence[bool]  # layers in which any row has a head gone
    room: int  # positions to come in all
    keys: list[Tensor] = field(default_factory=list)
    others: list[Tensor] = field(default_factory=list)

    def read(self, tokens: Int[Tensor, "n t"], start: int) -> Float[Tensor, "n V"]:
        """Read tokens at positions from ``start`` on; return the logits after the last of them."""
        x, last = embed(self.model, tokens, start), self.model.spec.n_layers - 1
        for layer, block in enumerate(self.model.blocks):
            z = self._replaced(layer, self._attend(layer, x, start, only_end=layer == last))
            if layer == last:  # nothing reads the earlier positions of the last layer
                x = x[:, -1:]
            mid = x + attention_out(block.heads, z) + block.out_bias
            x = mid + mlp(self.model, layer, mlp_input(self.model, x, mid))
        return unembed(self.model, x[:, -1])

    def _attend(self, layer: int, x: Tensor, start: int, *, only_end: bool) -> Float[Tensor, "n t H e"]:
        n, length = x.shape[:2]
        end = torch.full((n,), length - 1, device=x.device) if only_end and not start else None
        q, k, v = project(self.model, layer, x, end=end, start=start)
        stop, group = start + length, self.model.spec.n_heads // (self.model.spec.n_kv_heads or self.model.spec.n_heads)
        if not start:
            shape = (n, k.shape[1] // group, self.room, k.shape[3])
            self.keys.append(k.new_empty(shape))
            self.others.append(v.new_empty(shape))
        # Queries that share their keys were given a copy each: one is kept.
        self.keys[layer][:, :, start:stop], self.others[layer][:, :, start:stop] = k[:, ::group], v[:, ::group]
        if not start and end is None:
            return attend(q, k, v)
        if start:
            k, v = (cache[layer][:, :, :stop].repeat_interleave(group, 1) if group > 1 else cache[layer][:, :, :stop]
                    for cache in (self.keys, self.others))  # fmt: skip
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)  # one query, the last: it sees all keys

    def _replaced(self, layer: int, z: Float[Tensor, "n t H e"]) -> Float[Tensor, "n t H e"]:
        if not self.touched[layer]:
            return z
        value = z.new_zeros(()) if self.values is None else self.values[layer].to(z.dtype)
        return torch.where(self.gone[:, layer, None, :, None], value, z)


def cache_bytes(spec: Spec, length: int, itemsize: int = 4) -> int:
    """Bytes that the keys and values of one prompt of ``length`` tokens need, in all layers."""
    return 2 * itemsize * spec.n_layers * (spec.n_kv_heads or spec.n_heads) * spec.d_head * length


@torch.inference_mode()
def generate(
    model: Model,
    tokens: Int[Tensor, "n T"],
    steps: int,
    chunk: int,
    knockouts: KnockOuts | None = None,
    sampling: Sampling | None = None,
) -> Int[Tensor, "n steps"]:
    """Return the ``steps`` tokens that the model writes after each prompt, always the likeliest one unless they are drawn.

    Of ``chunk``, the prompts whose forward pass fits the memory, as many run at once as their caches leave room for. Raises
    UserError for more positions than the model has.
    """
    room, size = tokens.shape[1] + steps - 1, model.dtype.itemsize
    if room > model.spec.n_positions:
        limit = model.spec.n_positions
        raise UserError(f"prompts of {tokens.shape[1]} tokens and {steps} more do not fit the model's {limit} positions")
    pass_bytes = row_bytes(model.spec, tokens.shape[1], size)
    fewer = int(chunk * pass_bytes / (pass_bytes + cache_bytes(model.spec, room, size)))

    none = KnockOuts(torch.zeros(1, model.spec.n_layers, 1, dtype=torch.bool), torch.zeros(len(tokens), dtype=torch.long))
    touched = (knockouts or none).gone.any(2).any(0).tolist()

    def run(rows: slice) -> Tensor:
        part = (knockouts or none).rows(rows)
        batch = _Batch(model, part.gone[part.of] if any(touched) else None, part.values, touched, room)
        written, text, start = [], tokens[rows], 0
        for step in range(steps):
            logits = batch.read(text, start)
            written.append(logits.argmax(1) if sampling is None else sampling.rows(rows).choose(logits, step))
            text, start = written[-1][:, None], tokens.shape[1] + step
        return torch.stack(written, 1)

    return torch.cat([part for _, part in in_chunks(run, len(tokens), max(BLOCK, fewer // BLOCK * BLOCK))])


def generate_all(
    model: Model, prompts: Sequence[Sequence[int]], steps: int, chunk: int, knockouts: KnockOuts | None = None
) -> list[list[int]]:
    """Return what the model writes after prompts of any lengths, in their order; those of one length run together."""
    lengths, written = defaultdict(list), [[] for _ in prompts]
    for row, prompt in enumerate(prompts):
        lengths[len(prompt)].append(row)
    for _, rows in sorted(lengths.items()):
        tokens = torch.tensor([list(prompts[row]) for row in rows], device=model.device)
        chosen = torch.tensor(rows, device=model.device)
        found = generate(model, tokens, steps, chunk, None if knockouts is None else knockouts.rows(chosen))
        for row, ids in zip(rows, found.tolist(), strict=True):
            written[row] = ids
    return written
