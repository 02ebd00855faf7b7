"""Means and shares over balanced samples of reviews, with intervals, and whether it matters where the commas stand (3.8)."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import atanh, sqrt, tanh

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float

from recircuit.core.stats import stream
from recircuit.experiments.sentiment.review_ablation import KEYS, NONE
from recircuit.methods.directions import p_value
from recircuit.tasks.sst import balanced

CHANCE = 0.5
NORMAL = 1.959964  # two-sided 95 %
DISTANCES = {"average": "mean_comma_dist", "first": "first_comma_dist", "number": "n_commas"}


@dataclass(frozen=True)
class Samples:
    """The reviews that are kept: which are positive [N], and which are in the balanced sample of each seed [S N]."""

    examples: pd.DataFrame
    positive: Bool[np.ndarray, " N"]
    drawn: Bool[np.ndarray, "S N"]

    @classmethod
    def of(cls, examples: pd.DataFrame, seeds: Sequence[int]) -> "Samples":
        """Draw a sample per seed from ``se_examples`` of one scaffold."""
        kept = examples[examples["kept"]].sort_values("sentence_index", ignore_index=True)
        chosen = (balanced(kept[["sentence_index", "label"]], seed)["sentence_index"] for seed in seeds)
        drawn = np.stack([kept["sentence_index"].isin(own) for own in chosen])
        return cls(kept, kept["label"].to_numpy() == 1, drawn)

    def subsets(self) -> dict[str, Bool[np.ndarray, " N"]]:
        """Return which reviews belong to all, to either class, and to those of a score that is not neutral."""
        every = np.ones_like(self.positive)
        found = {"all": every, "positive": self.positive, "negative": ~self.positive}
        strict = self.examples["strict"].to_numpy(bool)
        return found | ({"strict": strict} if strict.any() and not strict.all() else {})

    def resampled(self, rng: np.random.Generator, draws: int) -> Float[np.ndarray, "draws N"]:
        """Draw reviews with replacement, of each class as many as a sample has; return how often each was drawn."""
        size, found = int(self.drawn[0].sum()) // 2, np.zeros((draws, len(self.positive)))
        for own in (self.positive, ~self.positive):
            found[:, own] = rng.multinomial(size, np.full(own.sum(), 1 / own.sum()), draws)
        return found


def _mean(weights: Float[np.ndarray, "m N"], values: Float[np.ndarray, "N k"]) -> Float[np.ndarray, "m k"]:
    return weights @ values / weights.sum(1, keepdims=True)


def _interval(name: str, values: Float[np.ndarray, "draws k"]) -> dict[str, np.ndarray]:
    low, high = np.quantile(values, [0.025, 0.975], axis=0)
    return {f"{name}_lo": low, f"{name}_hi": high}


def summary(ablation: pd.DataFrame, samples: Samples, preference: float, seed: int, draws: int) -> pd.DataFrame:
    """Return ``se_ablation_summary`` of one scaffold: the mean over the samples, their spread, and 95 % intervals.

    ``accuracy`` counts logit differences, less the ``preference`` for positive answers of the model as it is (0 where reviews
    were kept without centring), so that it is 1 before anything is ablated; ``accuracy_raw`` counts them as they are and
    ``accuracy_centred`` less the preference in the sample and condition itself. ``lost`` is how much of the accuracy above
    chance is gone. Intervals come from reviews resampled within the classes.
    """
    wide = ablation.pivot(index="sentence_index", columns=KEYS, values="ld").loc[samples.examples["sentence_index"]]
    lds, sign = wide.to_numpy(float), np.where(samples.positive, 1.0, -1.0)[:, None]
    base = wide.columns.get_level_values("condition").get_loc(NONE)
    right, weights = (lds - sign * preference > 0).astype(float), samples.drawn.astype(float)
    own = np.stack([(lds - sign * _mean(drawn[None], sign * lds) > 0) for drawn in weights]).astype(float)  # [S N k]
    again, tables = samples.resampled(stream(seed, "ablation"), draws), []
    for name, subset in samples.subsets().items():
        counted, drawn = weights * subset, again * subset
        mean, share = _mean(counted, lds), _mean(counted, right)  # [S k]
        loose, hits = _mean(drawn, lds), _mean(drawn, right)  # [draws k]
        many = len(weights) > 1
        table = wide.columns.to_frame(index=False).assign(
            subset=name, n=round(counted.sum(1).mean()), mean_ld=mean.mean(0),
            relative=mean.mean(0) / mean.mean(0)[base] - 1, accuracy=share.mean(0),
            accuracy_raw=_mean(counted, (lds > 0).astype(float)).mean(0),
            accuracy_centred=np.stack([_mean(w[None], hit)[0] for w, hit in zip(counted, own, strict=True)]).mean(0),
            sd_ld=mean.std(0, ddof=1) if many else None, sd_accuracy=share.std(0, ddof=1) if many else None,
            **_interval("ld", loose), **_interval("relative", loose / loose[:, [base]] - 1), **_interval("ci", hits),
        )  # fmt: skip
        above = table["accuracy"].iloc[base] - CHANCE
        table["lost"] = (table["accuracy"].iloc[base] - table["accuracy"]) / above if above > 0 else None
        tables.append(table)
    found = pd.concat(tables, ignore_index=True).astype({"sd_ld": float, "sd_accuracy": float, "lost": float})
    return found.assign(p_random=against_random(found))


def against_random(table: pd.DataFrame) -> np.ndarray:
    """Return for each ablated direction how often a random one, at the same tokens, lowers the logit difference as much."""
    found = np.full(len(table), np.nan)
    drawn = table[table["condition"] == "random direction"].groupby(["mask", "subset"])["mean_ld"]
    null = {key: torch.tensor(-values.to_numpy()) for key, values in drawn}
    for row, own in enumerate(table.itertuples()):
        if own.condition == "direction" and not own.frozen and (own.mask, own.subset) in null:
            found[row] = p_value(null[own.mask, own.subset], -own.mean_ld)
    return found


# ---- distance -------------------------------------------------------------------------------------------------------


def comma_distance(ablation: pd.DataFrame, samples: Samples) -> pd.DataFrame:
    """Return ``se_comma_distance``: how the drop by the published ablation goes with the commas' distance and number.

    Over the first sample; correlations have Fisher's 95 % intervals, and are empty where all reviews have one distance.
    """
    published = ablation.query("condition == 'direction' and mask == 'commas' and direction == 'das' and not frozen")
    after = published[published["alignment"] == "published"].set_index("sentence_index")["ld"]
    before = ablation[ablation["condition"] == NONE].set_index("sentence_index")["ld"]
    chosen = samples.examples[samples.drawn[0]].set_index("sentence_index")
    drop = (before - after).loc[chosen.index].to_numpy()
    rows = []
    for name, column in DISTANCES.items():
        x = chosen[column].to_numpy(float)
        row = {"distance": name, "n": len(drop), "mean_drop": drop.mean()} | dict.fromkeys(("r", "r_lo", "r_hi", "slope"))
        if len(drop) > 3 and np.ptp(x) and np.ptp(drop):
            r, spread = float(np.corrcoef(x, drop)[0, 1]), NORMAL / sqrt(len(drop) - 3)
            slope = r * drop.std() / x.std()
            row |= {"r": r, "r_lo": tanh(atanh(r) - spread), "r_hi": tanh(atanh(r) + spread), "slope": slope}
        rows.append(row)
    return pd.DataFrame(rows).astype(dict.fromkeys(("r", "r_lo", "r_hi", "slope"), float))
