"""What the experiments of the greater-than paper share: a data set as tensors, both runs of it, and the metric's rows.

``good`` is the clean prompt, ``bad`` its twin whose start year ends in 01 (or 99 where smaller years are right).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from recircuit.core.errors import UserError, nearest
from recircuit.core.model import Model
from recircuit.core.nodes import Node, head
from recircuit.core.nodes import mlp as mlp_node
from recircuit.methods.end_paths import Plain, plain_run, prefix, take
from recircuit.methods.years import cutoff_sharpness, probability_difference, year_probabilities
from recircuit.runs.budget import in_chunks

YEARS = [f"{n:02d}" for n in range(100)]
Log = Callable[[str], None]


@dataclass(frozen=True)
class Data:
    """One data set: tokens [n T] of both prompts, positions [n] by name, YY [n], and which years are right."""

    name: str
    good: Tensor
    bad: Tensor
    positions: dict[str, Tensor]
    yy: Tensor
    direction: str
    rows: pd.DataFrame

    def __len__(self) -> int:
        return len(self.yy)

    @property
    def order(self) -> Tensor:
        """Return the rows with equal 01 prompts together, [n]."""
        keys = self.bad.cpu().numpy()
        return torch.from_numpy(np.lexsort(keys.T[::-1]))


@dataclass(frozen=True)
class Pair:
    """Both runs of some rows of a data set."""

    good: Plain
    bad: Plain
    yy: Tensor
    direction: str
    rows: Tensor  # which rows of the data set


class Setting:
    """A model with the paper's prompts at hand; ``ids`` [100] are the tokens of the years 00 to 99."""

    def __init__(self, model: Model, prompts: pd.DataFrame, ids: list[int], chunk: int, log: Log | None = None) -> None:
        self.model, self.chunk, self.log = model, chunk, log
        self.ids = torch.tensor(ids, device=model.device)
        self._prompts = dict(tuple(prompts.groupby("dataset")))

    def on(self, model: Model) -> "Setting":
        """Return the same prompts with another model."""
        other = Setting.__new__(Setting)
        other.model, other.chunk, other.log, other.ids, other._prompts = model, self.chunk, self.log, self.ids, self._prompts
        return other

    @property
    def datasets(self) -> list[str]:
        """Return the names of the data sets."""
        return sorted(self._prompts)

    def data(self, name: str, most: int | None = None) -> Data:
        """Return a data set, or its first ``most`` prompts; UserError when the prompts do not have it."""
        if name not in self._prompts:
            raise UserError(f"there is no data set '{name}'{nearest(name, self._prompts)}")
        rows, device = self._prompts[name].sort_values("row").head(most or len(self._prompts[name])), self.model.device
        rows = rows.reset_index(drop=True)
        good, bad = (torch.from_numpy(np.stack(rows[key])).long().to(device) for key in ("clean_ids", "corrupt_ids"))
        named = {"end": "end_pos", "yy": "yy_pos"}
        positions = {
            key: torch.from_numpy(rows[column].to_numpy().astype(np.int64)).to(device) for key, column in named.items()
        }
        yy = torch.from_numpy(rows["yy"].to_numpy().astype(np.int64)).to(device)
        return Data(name, good, bad, positions, yy, str(rows["direction"].iloc[0]), rows)

    def pairs(self, data: Data) -> Iterator[Pair]:
        """Yield both runs of a data set, chunk by chunk.

        The 01 prompts of one noun and century are one prompt, run once; and the clean ones begin like them, up to YY. Prompts
        with the same twin therefore stand together (``order``).
        """
        order = data.order.to(self.model.device)
        shared = int((data.good != data.bad).any(0).nonzero()[0])

        def run(rows: slice) -> Pair:
            chosen = order[rows]
            positions = {name: pos[chosen] for name, pos in data.positions.items()}
            twins, index = torch.unique(data.bad[chosen], dim=0, return_inverse=True)
            first = torch.zeros(len(twins), dtype=torch.long, device=index.device).scatter_(
                0, index, torch.arange(len(index)).to(index)
            )
            bad = plain_run(self.model, twins, {name: pos[first] for name, pos in positions.items()})
            good = plain_run(self.model, data.good[chosen], positions, prefix(bad, shared, index))
            return Pair(good, take(bad, index), data.yy[chosen], data.direction, chosen)

        for _, pair in in_chunks(run, len(data), self.chunk, self.log):
            yield pair

    def score(self, x: Tensor, yy: Tensor, direction: str = "gt") -> tuple[Tensor, Tensor, Tensor]:
        """Return probability difference [*b n], sharpness [*b n] and year probabilities [*b n 100] of a final stream."""
        p = year_probabilities(self.model, x, self.ids)
        return probability_difference(p, yy, direction), cutoff_sharpness(p, yy), p


def senders(model: Model, before: int, *, mlps_before: int | None = None) -> list[Node]:
    """Return the heads of layers < ``before`` and the MLPs of layers < ``mlps_before`` (default: the same), by layer."""
    layers, heads = range(model.spec.n_layers), range(model.spec.n_heads)
    limit = before if mlps_before is None else mlps_before
    return [
        node
        for layer in layers
        for node in (*(head(layer, h) for h in heads if layer < before), *((mlp_node(layer),) if layer < limit else ()))
    ]
