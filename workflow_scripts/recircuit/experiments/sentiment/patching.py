"""Patching along directions (spec 3.4): the prompts that it is tried on, and their logit differences.

One layer at a time, all positions at once, the corrupted prompts' runs. All patches of a layer run together; everything else is
made of the prompts' logit differences (``patching_summary``).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from recircuit.core.model import Model
from recircuit.experiments.sentiment.patching_plans import (
    GENERAL_SETS,
    SCALED,
    Directions,
    Entry,
    Plan,
    doses,
    further_seeds,
    general,
    joined,
    own_layer,
    random_null,
    shuffled_null,
    transfer,
)
from recircuit.experiments.sentiment.setting import TEST, TRAIN, Setting, Toy, by_length
from recircuit.methods.direction_hooks import PromptPairs, directional_patching, logit_difference
from recircuit.runs.budget import in_chunks
from recircuit.runs.forward import forward
from recircuit.tasks import sst

SCAFFOLDS = ("continuation", "classification")  # of the reviews


class Batch(NamedTuple):
    """Prompts that run together: pairs of tokens, their class, the bootstrap's unit that they belong to, their numbers, [n]."""

    pairs: PromptPairs
    positive: np.ndarray
    unit: np.ndarray
    prompt: np.ndarray


def toy_batches(toy: Toy) -> list[Batch]:
    """Return toy prompts as one batch."""
    return [Batch(toy.pairs, toy.positive.cpu().numpy(), *(toy.rows[name].to_numpy(np.int64) for name in ("pair", "row")))]


def review_batches(reviews: pd.DataFrame, device: torch.device | str) -> Iterator[Batch]:
    """Yield paired reviews, those of each length together (spec 2.4: corrupted is the other one of the pair)."""
    for part in by_length(reviews, device):
        numbers = (part.rows[name].to_numpy(np.int64) for name in ("pair", "sentence_index"))
        yield Batch(part.pairs, part.positive.cpu().numpy(), *numbers)


def some_pairs(reviews: pd.DataFrame, most: int | None) -> pd.DataFrame:
    """Return the reviews that have a pair; of more than ``most`` pairs every so many, so that lengths stay as they are."""
    found = sst.paired(reviews)
    pairs = found["pair"].unique()
    if most is None or len(pairs) <= most:
        return found
    kept = pairs[np.linspace(0, len(pairs) - 1, most).round().astype(int)]
    return found[found["pair"].isin(kept)].reset_index(drop=True)


@torch.inference_mode()
def zero_shot(model: Model, reviews: pd.DataFrame, chunk: int) -> pd.DataFrame:
    """Return the reviews that the model classifies rightly, logit difference above 0, paired anew (spec 2.4)."""
    kept = []
    for part in by_length(reviews, model.device):

        def run(rows: slice, part=part) -> Tensor:
            logits = forward(model, part.tokens[rows], part.end[rows], part.answers[rows, 0])
            return logit_difference(logits[:, None]) > 0

        right = torch.cat([found for _, found in in_chunks(run, len(part), chunk)])
        kept.append(part.rows[right.cpu().numpy()])
    found = pd.concat(kept, ignore_index=True)
    return sst.pair_up(found) if len(found) else found


@dataclass(frozen=True)
class Outcome:
    """Logit differences [n] of clean and corrupted prompts and, by layer, patched ones [m n]; float64.

    ``share`` [m] by layer is how much of the squared difference between the streams the patched subspace holds.
    """

    positive: np.ndarray
    unit: np.ndarray
    prompt: np.ndarray
    clean: np.ndarray
    corrupted: np.ndarray
    patched: dict[int, np.ndarray]
    share: dict[int, np.ndarray]

    def some(self, chosen: np.ndarray) -> "Outcome":
        """Return it for some of the prompts [n]; shares stay those of all."""
        columns = (getattr(self, name)[chosen] for name in ("positive", "unit", "prompt", "clean", "corrupted"))
        return Outcome(*columns, {layer: values[:, chosen] for layer, values in self.patched.items()}, self.share)


def run(model: Model, batches: Iterable[Batch], plan: Plan, chunk: int) -> Outcome:
    """Run a plan on prompts."""
    batches, patches = list(batches), {layer: [patch for _, patch in entries] for layer, entries in plan.items()}
    found = [directional_patching(model, batch.pairs, patches, chunk) for batch in batches]

    def numpy(parts: Iterable[Tensor]) -> np.ndarray:
        return torch.cat([part.double().cpu() for part in parts], -1).numpy()

    facts = (np.concatenate(column) for column in list(zip(*batches, strict=True))[1:])
    clean, corrupted = (numpy(getattr(part, name) for part in found) for name in ("clean", "corrupted"))
    share = {
        layer: numpy(part.shares[layer] for part in found).sum(-1) / numpy(part.wholes[layer] for part in found).sum()
        for layer in plan
    }
    return Outcome(*facts, clean, corrupted, {layer: numpy(part.patched[layer] for part in found) for layer in plan}, share)


class Tested(NamedTuple):
    """Prompts of one kind with all that was patched into them. ``variant`` is of the reviews; None: that of the directions."""

    eval_set: str
    scaffold: str
    split: str
    variant: str | None
    plan: Plan
    outcome: Outcome


def toy_tests(setting: Setting, directions: Directions, draws: int, seed: int) -> Iterator[Tested]:
    """Yield the toy sets: movie prompts of both splits, those for testing with all that section 8 asks, then the other sets."""
    spec, own = setting.model.spec, [own_layer(directions, variant=variant) for variant in ("paper", "full")]
    yield (train := _toy(setting, TRAIN, joined(own)))
    movie = [
        *own, own_layer(directions, projection="complement"), further_seeds(directions), transfer(directions),
        doses(directions, sorted({spec.n_layers // 2, strongest_layer(train)})),
        random_null(spec.n_layers, spec.d_model, draws, seed), shuffled_null(setting, draws, seed),
        # The movie directions themselves are in the first plan.
        {layer: [e for e in entries if _is_new(e[0])] for layer, entries in general(directions, "movie").items()},
    ]  # fmt: skip
    yield _toy(setting, TEST, joined(movie))
    for name in GENERAL_SETS:
        variant = directions.variant_of(name)
        if name != "movie" and variant and setting.has(name, "all", variant):
            yield _toy(setting, (name, "all", variant), general(directions, name))


def strongest_layer(tested: Tested, method: str = SCALED[0]) -> int:
    """Return the layer, before the final stream, at which a direction gives back most of the logit difference."""
    outcome, rows = tested.outcome, [(layer, i, e) for layer, es in tested.plan.items() for i, (e, _) in enumerate(es)]
    found = {layer: outcome.patched[layer][i].mean() for layer, i, e in rows if (e.variant, e.method) == ("paper", method)}
    return max(sorted(found), key=found.get, default=0)


def _is_new(entry: Entry) -> bool:
    return entry.set != "movie" or entry.projection != "none"


def _toy(setting: Setting, key: tuple[str, ...], plan: Plan) -> Tested:
    outcome = run(setting.model, toy_batches(setting.toy(*key)), plan, setting.chunk)
    return Tested(key[0], "toy", key[1], None, plan, outcome)


def review_tests(
    setting: Setting, directions: Directions, reviews: pd.DataFrame, most: int | None, draws: int, seed: int
) -> Iterator[Tested]:
    """Yield reviews of dev and test in both scaffolds: all, the clearly labelled ones, and those that are classified rightly.

    The last kind is of test reviews in the scaffold ``classification``, as published. Random directions are tried on test
    reviews in the scaffold ``continuation``.
    """
    model, plain = setting.model, own_layer(directions)
    null = joined([plain, random_null(model.spec.n_layers, model.spec.d_model, draws, seed)])
    used = reviews[reviews["scaffold"].isin(SCAFFOLDS) & reviews["split"].isin(("dev", "test"))]
    for (scaffold, split), part in used.groupby(["scaffold", "split"]):
        if not len(chosen := some_pairs(part, most)):
            continue
        plan = null if (scaffold, split) == ("continuation", "test") else plain
        outcome = run(model, review_batches(chosen, model.device), plan, setting.chunk)
        yield (found := Tested("reviews", scaffold, split, "paper", plan, outcome))
        clear = np.isin(outcome.prompt, chosen.loc[chosen.groupby("pair")["strict"].transform("all"), "sentence_index"])
        if clear.any() and not clear.all():
            yield found._replace(variant="strict", outcome=outcome.some(clear))
        if (scaffold, split) == ("classification", "test"):
            right = zero_shot(model, part, setting.chunk)
            if len(right) == len(part):  # nothing is left out: no need to run them again
                yield found._replace(variant="filtered")
            elif len(right) and len(chosen := some_pairs(right, most)):
                outcome = run(model, review_batches(chosen, model.device), plain, setting.chunk)
                yield Tested("reviews", scaffold, split, "filtered", plain, outcome)
