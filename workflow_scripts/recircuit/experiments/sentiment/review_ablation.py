"""Directions ablated at the commas of reviews, or everywhere, and the controls that the paper does not give (3.8, 8)."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recircuit.core.errors import UserError
from recircuit.core.model import Model
from recircuit.core.stats import stream
from recircuit.core.tokenizer import Tokenizer
from recircuit.experiments.sentiment.fits import frames
from recircuit.experiments.sentiment.review_baseline import BEGUN, some
from recircuit.experiments.sentiment.setting import Log, Reviews, by_length
from recircuit.methods.direction_hooks import Change, leaving, masked_means, remove, to_mean, to_mean_but
from recircuit.methods.directions import random_directions
from recircuit.methods.stream_edits import Edit, edited_ends
from recircuit.runs.budget import in_chunks

DIRECTIONS = ("das", "kmeans", "mean_diff")  # the first is the published one
ALIGNMENTS = ("published", "aligned")
MASKS = ("commas", "all", "review")
DRAWN = ("random tokens", "random words")  # as many of them as the review has commas, drawn anew each time
TEXT_ROWS = 256  # of running text, over whose commas a mean is taken
NONE = "none"


# ---- which tokens ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Marks:
    """The tokens that masks look for; ``words`` [V] tells which tokens have a letter or a digit."""

    comma: int
    period: int
    words: np.ndarray

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "Marks":
        """Look them up."""
        inner = tokenizer.inner
        texts = (inner.id_to_token(i) or "" for i in range(inner.get_vocab_size()))
        words = np.array([any(character.isalnum() and character not in "ĠĊ" for character in text) for text in texts])
        return cls(tokenizer.single(","), tokenizer.single("."), words)

    def mask(self, name: str, batch: Reviews, draw: int = 0) -> Bool[Tensor, "n T"]:
        """Return the tokens of a mask in each review.

        ``all`` has the whole prompt, ``review`` the review alone, and so have the rest: its ``commas``, its ``periods``, the
        tokens ``before commas``, and as many tokens other than commas as it has commas, any of them or words alone.
        """
        if name == "all":
            return torch.ones_like(batch.tokens, dtype=torch.bool)
        tokens, place = batch.tokens.cpu().numpy(), np.arange(batch.tokens.shape[1])
        start, end = (batch.rows[column].to_numpy()[:, None] for column in ("text_start", "text_end"))
        inside = (place >= start) & (place < end)
        commas = inside & (tokens == self.comma)
        if name in DRAWN:
            free = inside & ~commas & (self.words[tokens] if name == "random words" else True)
            found = self._drawn(name, free, commas.sum(1), batch.rows["sentence_index"], draw)
        else:
            before = np.pad(commas[:, 1:], ((0, 0), (0, 1))) & inside & ~commas
            periods = inside & (tokens == self.period)
            found = {"review": inside, "commas": commas, "periods": periods, "before commas": before}[name]
        return torch.from_numpy(found).to(batch.tokens.device)

    def _drawn(self, name: str, free: np.ndarray, counts: np.ndarray, sentences: pd.Series, draw: int) -> np.ndarray:
        found = np.zeros_like(free)
        for row, (own, count, sentence) in enumerate(zip(free, counts, sentences, strict=True)):
            places = np.flatnonzero(own)
            chosen = stream(draw, name, int(sentence)).choice(places, min(int(count), len(places)), replace=False)
            found[row, chosen] = True
        return found


# ---- what is done ---------------------------------------------------------------------------------------------------


class Condition(NamedTuple):
    """An ablation and how it is called in the table; ``change`` makes it for a batch of reviews."""

    condition: str
    mask: str
    direction: str
    alignment: str
    frozen: bool
    draw: int
    change: Callable[[Reviews], Change]


KEYS = list(Condition._fields[:-1])


@dataclass(frozen=True)
class Means:
    """Mean streams leaving each layer at commas, [L d]: of positive and of negative reviews, and of running text if it has any.

    ``weights`` are how many commas a positive and a negative review has: in a balanced set the mean is theirs, so weighted.
    """

    positive: Tensor
    negative: Tensor
    weights: tuple[float, float]
    text: Tensor | None

    @cached_property
    def balanced(self) -> Float[Tensor, "L d"]:
        """Return the mean over the commas of as many positive as negative reviews."""
        more, less = self.weights
        return (more * self.positive + less * self.negative) / (more + less)


class Ablations:
    """A model with its directions: [L+1 d] by method, zero where none was fitted (DAS of the final stream)."""

    def __init__(self, model: Model, tokenizer: Tokenizer, directions: pd.DataFrame, chunk: int) -> None:
        self.model, self.marks, self.chunk = model, Marks.of(tokenizer), chunk
        self.directions = {}
        for name in DIRECTIONS:
            found = {layer: frame[:, 0] for layer, frame in frames(directions, name).items()}
            if lost := set(range(model.spec.n_layers)) - set(found):
                raise UserError(f"there is no direction '{name}' of layer {min(lost)}; let Snakemake build them again")
            zero = torch.zeros_like(found[0])
            self.directions[name] = torch.stack([found.get(layer, zero) for layer in range(model.spec.n_layers + 1)])

    def text_mean(self, text: np.ndarray, log: Log) -> Float[Tensor, "L d"] | None:
        """Take the mean over the commas of some rows [n T] of running text, or of none when there is no comma."""
        rows = torch.from_numpy(text[:TEXT_ROWS]).long()
        commas = int((rows == self.marks.comma).sum())
        log(f"running text: {commas} commas in {len(rows)} rows" + ("" if commas else "; no mean is taken over it"))
        parts = (part.to(self.model.device) for part in rows.split(max(1, self.chunk // 8)))
        return self._mean((part, part == self.marks.comma) for part in parts) if commas else None

    def means(self, reviews: pd.DataFrame, text: Float[Tensor, "L d"] | None) -> Means:
        """Take the means over the commas of the reviews that are kept, by class."""
        found, weights = [], []
        for label in (1, 0):
            own = reviews[reviews["label"] == label]
            batches = [(batch.tokens, self.marks.mask("commas", batch)) for batch in self._batches(own)]
            found.append(self._mean(batches))
            weights.append(sum(int(mask.sum()) for _, mask in batches) / len(own))
        return Means(*found, (weights[0], weights[1]), text)

    def _mean(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Float[Tensor, "L d"]:
        return masked_means(self.model, batches).to(self.model.dtype)

    def _batches(self, reviews: pd.DataFrame) -> Iterator[Reviews]:
        for batch in by_length(reviews, self.model.device):
            for start in range(0, len(batch), self.chunk):
                yield some(batch, slice(start, start + self.chunk))

    def run(self, reviews: pd.DataFrame, conditions: Sequence[Condition]) -> pd.DataFrame:
        """Return ``se_ablation`` without the scaffold: the logit difference of each review in each condition."""
        tables = []
        for batch in by_length(reviews, self.model.device):
            found = [part for _, part in in_chunks(lambda rows, own=batch: self._some(some(own, rows), conditions),
                                                   len(batch), self.chunk)]  # fmt: skip
            lds = torch.cat(found, 1).double().cpu().numpy()
            for condition, ld in zip(conditions, lds, strict=True):
                facts = dict(zip(KEYS, condition, strict=False))
                tables.append(batch.rows[["sentence_index", "label", "strict"]].assign(ld=ld, **facts))
        return pd.concat(tables, ignore_index=True)

    def _some(self, batch: Reviews, conditions: Sequence[Condition]) -> Float[Tensor, "m n"]:
        nowhere = torch.zeros_like(batch.tokens, dtype=torch.bool)
        masks = {(c.mask, c.draw if c.mask in DRAWN else 0) for c in conditions if c.mask != NONE}
        found = {(name, draw): self.marks.mask(name, batch, draw) for name, draw in sorted(masks)}
        edits = [
            Edit(c.change(batch), found.get((c.mask, c.draw if c.mask in DRAWN else 0), nowhere), c.frozen) for c in conditions
        ]
        return edited_ends(self.model, batch.tokens, batch.end, batch.answers, edits)

    # ---- lists of conditions ----------------------------------------------------------------------------------------

    def conditions(self, scaffold: str, means: Means, draws: int, seeds: Sequence[int]) -> list[Condition]:
        """Return all conditions of a scaffold; after a token that begins a text only the published ones are repeated."""
        found = [Condition(NONE, NONE, NONE, NONE, False, 0, lambda batch: lambda layer, x: x)]
        if scaffold == BEGUN:
            return found + [self._direction("das", *rest) for rest in _grid(MASKS, (False,))]
        found += [self._direction("das", *rest) for rest in _grid(MASKS, (False, True))]
        found += [self._direction(name, *rest) for name in DIRECTIONS[1:] for rest in _grid(MASKS, (False,))]
        found += [self._random(mask, draw) for mask in ("commas", "all") for draw in range(draws)]
        controls = [("periods", 0), ("before commas", 0), *((name, seed) for name in DRAWN for seed in seeds)]
        found += [self._direction("das", mask, "published", False, draw) for mask, draw in controls]
        return found + self._means(means)

    def _direction(self, name: str, mask: str, alignment: str, frozen: bool, draw: int = 0) -> Condition:
        change = remove(leaving(self.directions[name], alignment))
        return Condition("direction", mask, name, alignment, frozen, draw, lambda batch: change)

    def _random(self, mask: str, draw: int) -> Condition:
        change = remove(random_directions(self.model.spec.n_layers, self.model.spec.d_model, seed=draw))
        return Condition("random direction", mask, "random", NONE, False, draw, lambda batch: change)

    def _means(self, means: Means) -> list[Condition]:
        own = leaving(self.directions["das"], "published")
        made: Mapping[str, Change] = {
            "mean": to_mean(means.balanced),
            "inverse": to_mean_but(means.balanced, own),
            "inverse, added": to_mean_but(means.balanced, own, added=True),
        } | ({"mean of running text": to_mean(means.text)} if means.text is not None else {})
        facts = {"inverse": ("das", "published"), "inverse, added": ("das", "published")}
        found = [
            Condition(name, "commas", *facts.get(name, (NONE, NONE)), frozen, 0, lambda batch, change=change: change)
            for name, change in made.items()
            for frozen in ((False, True) if name == "mean" else (False,))
        ]
        return [
            *found,
            Condition("mean of the other class", "commas", NONE, NONE, False, 0, lambda batch: _other(means, batch)),
        ]


def _grid(masks: Sequence[str], frozen: Sequence[bool]) -> list[tuple[str, str, bool]]:
    found = [(mask, alignment, held) for mask in masks for alignment in ALIGNMENTS for held in frozen]
    return [one for one in found if not (one[0] == "review" and one[2])]


def _other(means: Means, batch: Reviews) -> Change:
    """Return the mean ablation with the mean of the class that a review does not have."""
    positive = batch.positive[:, None, None]
    return lambda layer, x: torch.where(positive, means.negative[layer], means.positive[layer]).to(x).expand_as(x)
