"""A trained arithmetic model at one checkpoint, with its rows, its streams and its blocks made ready for every method."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from recircuit.core.model import Model, layer_norm
from recircuit.methods.masks import Cached, CachedMlp, TableAttention
from recircuit.methods.one_layer import Last, Table, after_mlp, logits_of, run_last, table_reads
from recircuit.tasks.arithmetic import P, tokens_of

COMPONENTS = ("attn", "mlp")
SITES = {"attn": "resid_mid", "mlp": "resid_post"}


@dataclass(frozen=True)
class Part:
    """The rows of one task and split: tokens, partners' tokens, answers, and the variables' values."""

    task: int
    split: str
    tokens: Int[Tensor, "n T"]
    partners: Int[Tensor, "n T"]
    answers: Int[Tensor, " n"]
    values: Mapping[str, Tensor]
    cf_values: Mapping[str, Tensor]
    cf_answers: Mapping[str, Tensor]


def parts_of(rows: pd.DataFrame, variables: pd.DataFrame, device: torch.device | str) -> dict[tuple[int, str], Part]:
    """Return the parts of an experiment from its two tables, by (task, split)."""
    found = {}
    for (task, split), part in rows.groupby(["task", "split"], sort=False):
        part = part.sort_values("row")
        of = variables[(variables["task"] == task) & (variables["split"] == split)].sort_values("row")

        def columns(name: str, of: pd.DataFrame = of) -> dict[str, Tensor]:
            whole = {v: g[name] for v, g in of.groupby("variable", sort=False) if g[name].notna().all()}
            return {v: torch.tensor(g.to_numpy("int64")).to(device) for v, g in whole.items()}

        tokens, partners = (tokens_of(part, prefix).to(device) for prefix in "tc")
        answers = torch.tensor(part["answer"].to_numpy("int64")).to(device)
        found[int(task), str(split)] = Part(
            int(task), str(split), tokens, partners, answers, columns("value"), columns("cf_value"), columns("cf_answer")
        )
    return found


@dataclass(frozen=True)
class Run:
    """A model at one checkpoint and the parts of its experiment."""

    model: Model
    seed: int
    epoch: int
    parts: Mapping[tuple[int, str], Part]

    @property
    def facts(self) -> dict[str, int]:
        """The columns that name this checkpoint."""
        return {"seed": self.seed, "epoch": self.epoch}

    @property
    def tasks(self) -> list[int]:
        """The tasks of the experiment."""
        return sorted({task for task, _ in self.parts})

    @cached_property
    def _seen(self) -> dict:
        return {}

    def last(self, task: int, split: str, *, partners: bool = False) -> Last:
        """Return streams and logits of the last position of a part, or of its rows' partners."""
        key = (task, split, partners)
        if key not in self._seen:
            part = self.parts[task, split]
            with torch.no_grad():
                self._seen[key] = run_last(self.model, Table.of(part.partners if partners else part.tokens))
        return self._seen[key]

    def stream(self, task: int, split: str, component: str, *, partners: bool = False) -> Float[Tensor, "n d"]:
        """Return the stream of the last position after attention (``attn``) or after the MLP (``mlp``)."""
        found = self.last(task, split, partners=partners)
        return found.mid if component == "attn" else found.post

    def block(self, task: int, split: str, component: str) -> Cached:
        """Return a block with x W computed for all rows of a part."""
        part = self.parts[task, split]
        with torch.no_grad():
            return cached_attention(self.model, part.tokens) if component == "attn" else self._mlp(task, split)

    def _mlp(self, task: int, split: str) -> CachedMlp:
        block = self.model.blocks[0]
        reads = layer_norm(block.norm2, self.last(task, split).mid, self.model.spec.eps)
        return CachedMlp(reads @ block.up, block.up_bias, block.down, block.down_bias, self.model.spec.activation)

    def logits_from(self, component: str, stream: Float[Tensor, "n d"]) -> Float[Tensor, "n V"]:
        """Return the logits when the stream after a component is this."""
        return logits_of(self.model, after_mlp(self.model, stream) if component == "attn" else stream)

    @torch.inference_mode()
    def accuracy_with(self, task: int, split: str, component: str, update: Float[Tensor, "n d"]) -> float:
        """Return the accuracy of the whole model when a block writes this at the last position."""
        part, last = self.parts[task, split], self.last(task, split)
        before = self.model.tokens[P] + self.model.positions[part.tokens.shape[1] - 1] if component == "attn" else last.mid
        logits = self.logits_from(component, before + update)
        return float((logits.argmax(1) == part.answers).double().mean())


def cached_attention(model: Model, tokens: Int[Tensor, "n T"]) -> TableAttention:
    """Return the attention block with x W computed for the distinct tokens of the rows."""
    table, w = Table.of(tokens), model.blocks[0].heads
    reads = table_reads(model, table)
    seen = torch.ones_like(table.index, dtype=torch.bool)
    biases = (w.q_bias, w.k_bias, w.v_bias)
    parts = (reads[-1:] @ w.q, reads @ w.k, reads @ w.v)
    return TableAttention(*parts, seen, biases, w.out, model.blocks[0].out_bias, model.spec.n_heads, table.index)


def runs_of(models: Mapping[tuple[int, int], Model], parts: Mapping[tuple[int, str], Part]) -> Iterator[Run]:
    """Yield every checkpoint, in the order of seeds and epochs; what a run keeps of its streams goes with it."""
    for key in sorted(models):
        yield Run(models[key], *key, parts)
