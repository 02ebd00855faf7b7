"""What the experiments of the sentiment paper share: toy prompts and reviews as tensors, each with its corrupted twin."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from recircuit.core.errors import UserError, nearest
from recircuit.core.model import Model
from recircuit.methods.direction_hooks import PromptPairs, streams
from recircuit.runs.budget import in_chunks
from recircuit.tasks import sentiment, sentiment_stories

Log = Callable[[str], None]
KEYS = ["set", "split", "variant"]
TRAIN, TEST, CIRCUIT = ("movie", "train"), ("movie", "test"), ("circuit", "all")


@dataclass(frozen=True)
class Toy:
    """A set, split and variant of toy prompts: tokens [n T], which are positive [n], named positions [n], answers [n a 2].

    ``twin`` [n] is the row of each prompt's corrupted one. All prompts have one length.
    """

    name: str
    tokens: Tensor
    positive: Tensor
    positions: dict[str, Tensor]
    answers: Tensor
    twin: Tensor
    rows: pd.DataFrame

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def pairs(self) -> PromptPairs:
        """Return every prompt with its corrupted one."""
        return PromptPairs(self.tokens, self.tokens[self.twin], self.positions["END"], self.answers)

    def place(self, name: str) -> int:
        """Return the one position of a name; UserError when it is not one position in all prompts."""
        if name not in self.positions:
            raise UserError(f"the prompts {self.name} have no position '{name}'{nearest(name, self.positions)}")
        found = set(self.positions[name].tolist())
        if len(found) != 1:
            raise UserError(f"'{name}' is not at one position in all prompts {self.name}, but at {sorted(found)}")
        return found.pop()


class Setting:
    """A model with the toy prompts at hand (tables ``se_prompts`` and ``se_positions``)."""

    def __init__(self, model: Model, prompts: pd.DataFrame, positions: pd.DataFrame, chunk: int) -> None:
        self.model, self.chunk = model, chunk
        self._prompts = dict(tuple(prompts.groupby(KEYS)))
        self._positions = dict(tuple(positions.groupby(KEYS)))

    def names(self, split: str | None = None) -> list[tuple[str, str, str]]:
        """Return (set, split, variant) of all prompts, or of one split."""
        return sorted(key for key in self._prompts if split in (None, key[1]))

    def has(self, name: str, split: str, variant: str = "paper") -> bool:
        """Return whether the model's tokenizer allows some prompts."""
        return (name, split, variant) in self._prompts

    def toy(self, name: str, split: str, variant: str = "paper") -> Toy:
        """Return some prompts; UserError when there are none of that name."""
        key, device = (name, split, variant), self.model.device
        if key not in self._prompts:
            known = [" ".join(found) for found in self._prompts]
            raise UserError(f"there are no toy prompts '{' '.join(key)}'{nearest(' '.join(key), known)}")
        rows = self._prompts[key].sort_values("row", ignore_index=True)
        stack = {column: torch.from_numpy(np.stack(rows[column])).long() for column in ("tokens", "right", "wrong")}
        places = self._positions[key].pivot(index="row", columns="name", values="position")
        positions = {
            str(column): torch.tensor(places[column].to_numpy(np.int64), device=device)
            for column in places
            if places[column].notna().all()
        }
        twins = (sentiment_stories if name == "stories" else sentiment).corrupted_rows(len(rows))
        return Toy(
            " ".join(key),
            stack["tokens"].to(device),
            torch.from_numpy(rows["label"].to_numpy() == 1).to(device),
            positions,
            torch.stack([stack["right"], stack["wrong"]], -1).to(device),
            torch.tensor(twins, device=device),
            rows,
        )

    def streams_at(self, toy: Toy, position: str) -> Tensor:
        """Return the streams entering every layer, and the final one, at one named position: [L+1 n d]."""
        place = toy.positions[position]

        def run(rows: slice) -> Tensor:
            found = torch.stack(streams(self.model, toy.tokens[rows]))  # [L+1 m T d]
            return found[:, torch.arange(found.shape[1], device=found.device), place[rows]]

        with torch.inference_mode():
            return torch.cat([part for _, part in in_chunks(run, len(toy), self.chunk)], 1)


# ---- reviews --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reviews:
    """Reviews of one length: which rows of the table they are, their tokens [n T] and answers (right, wrong) [n 1 2].

    ``rows`` are the table's rows in the same order; no review is padded.
    """

    tokens: Tensor
    answers: Tensor
    rows: pd.DataFrame

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def end(self) -> Tensor:
        """Return the position that is read: the last one of each, [n]."""
        return torch.full((len(self),), self.tokens.shape[1] - 1, device=self.tokens.device)

    @property
    def positive(self) -> Tensor:
        """Return which reviews are positive, [n]."""
        return torch.from_numpy(self.rows["label"].to_numpy() == 1).to(self.tokens.device)

    @property
    def pairs(self) -> PromptPairs:
        """Return each review with the other one of its pair: rows come as ``sst.paired`` gives them, two and two."""
        twin = torch.arange(len(self), device=self.tokens.device) ^ 1
        return PromptPairs(self.tokens, self.tokens[twin], self.end, self.answers)


def by_length(reviews: pd.DataFrame, device: torch.device | str) -> Iterator[Reviews]:
    """Yield the reviews of each length, shortest first, in the table's order."""
    for _, rows in reviews.groupby("n_tokens"):
        tokens = torch.from_numpy(np.stack(rows["tokens"])).long().to(device)
        answers = torch.from_numpy(rows[["right", "wrong"]].to_numpy(np.int64)).to(device)
        yield Reviews(tokens, answers[:, None], rows.reset_index(drop=True))
