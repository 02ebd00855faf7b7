"""Statistics of the activations on running text: histograms, samples, tokens, accuracy in the tails, AUC (spec 3.9).

``values`` are the activations of all tokens in one row, [N]; ``codes`` [N] their labels, as indices of ``text_labels.LABELS``.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from recircuit.core.stats import stream, wilson
from recircuit.experiments.sentiment.text_labels import LABELS

BINS, DRAWS = 20, 20  # of the sample that is labelled
FINE = 200  # bins of histograms
TAILS = (0.001, 0.999)
FEWEST = 10  # times that a token must occur to have a mean
AUC = ("words", "auc_tokens", "n_tokens", "auc_words", "ci_lo", "ci_hi", "n_words")
NEGATIVE, NEUTRAL, POSITIVE, UNLABELLED = range(len(LABELS))


def edges(values: Float[np.ndarray, " N"], bins: int) -> Float[np.ndarray, " bins+1"]:
    """Return equal bins between the least and the largest activation that is not zero."""
    present = values[values != 0]
    return np.linspace(float(present.min()), float(present.max()), bins + 1)


def place(values: Float[np.ndarray, " N"], cuts: Float[np.ndarray, " b"]) -> Int[np.ndarray, " N"]:
    """Return each activation's bin, -1 for those that are zero; the last bin is closed on both sides."""
    found = np.clip(np.searchsorted(cuts, values, "right") - 1, 0, len(cuts) - 2)
    return np.where(values != 0, found, -1)


def histogram(values: Float[np.ndarray, " N"], subsets: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Return counts of all activations, and of those in each subset (a mask [N]), in bins that they share."""
    cuts = edges(values, FINE)
    where = place(values, cuts)
    parts = []
    for subset, mask in ({"all": np.ones(len(values), bool)} | dict(subsets)).items():
        counts = np.bincount(where[mask & (where >= 0)], minlength=FINE)
        parts.append(
            pd.DataFrame({"bin": range(FINE), "left": cuts[:-1], "right": cuts[1:], "count": counts, "subset": subset})
        )
    return pd.concat(parts)


def sample(values: Float[np.ndarray, " N"]) -> pd.DataFrame:
    """Draw the tokens that are labelled: of each of 20 equal bins 20, with replacement (bin, draw, place in ``values``).

    Empty bins are skipped; numpy's legacy generator with seed 0 as published, though its draws depend on the text's rows.
    """
    where, rng = place(values, edges(values, BINS)), np.random.RandomState(0)
    rows = []
    for number in range(BINS):
        members = np.flatnonzero(where == number)
        if len(members):
            rows += [(number, draw, flat) for draw, flat in enumerate(rng.choice(members, DRAWS))]
    return pd.DataFrame(rows, columns=["bin", "draw", "flat"])


def token_stats(values: Float[np.ndarray, " N"], ids: Int[np.ndarray, " N"]) -> pd.DataFrame:
    """Return mean and standard deviation of every token of the vocabulary that occurs often enough."""
    count = np.bincount(ids)
    kept = np.flatnonzero(count >= FEWEST)
    centre = float(values.mean(dtype=np.float64))  # sums of squares about it lose no digits
    first, second = (np.bincount(ids, (values - centre).astype(np.float64) ** power) for power in (1, 2))
    mean = first[kept] / count[kept]
    spread = np.sqrt(np.maximum(second[kept] / count[kept] - mean**2, 0))
    return pd.DataFrame({"token_id": kept, "count": count[kept], "mean": mean + centre, "sd": spread})


# ---- accuracy in the tails ------------------------------------------------------------------------------------------


def accuracy(values: np.ndarray, codes: np.ndarray, cuts: tuple[float, float]) -> dict:
    """Return the accuracy of labelled tokens at or below the first cut and at or above the second, with its interval.

    As published: in each tail the share of the more frequent sign, whichever it is, neutral ones being wrong; then the mean of
    both. It has no value where a tail has no labelled token. The interval joins Wilson's of both shares (Newcombe 1998).
    """
    labelled = codes != UNLABELLED
    found = {}
    for tail, inside in (("low", values <= cuts[0]), ("high", values >= cuts[1])):
        own = codes[inside & labelled]
        hits = max((own == NEGATIVE).sum(), (own == POSITIVE).sum()) if len(own) else 0
        found |= {f"n_{tail}": len(own), f"share_{tail}": hits / len(own) if len(own) else None}
    if not (found["n_low"] and found["n_high"]):
        return found | {"accuracy": None, "ci_lo": None, "ci_hi": None}
    shares = [found["share_low"], found["share_high"]]
    ends = [wilson(share * n, n) for share, n in zip(shares, (found["n_low"], found["n_high"]), strict=True)]
    mean = sum(shares) / 2
    low, high = (np.hypot(*(share - end[i] for share, end in zip(shares, ends, strict=True))) / 2 for i in (0, 1))
    return found | {"accuracy": mean, "ci_lo": mean - low, "ci_hi": mean + high}


# ---- AUC ------------------------------------------------------------------------------------------------------------


def auc(positive: Float[np.ndarray, " p"], negative: Float[np.ndarray, " n"]) -> float:
    """Return the area under the ROC curve: how often a positive value exceeds a negative one, ties counted half."""
    order = np.sort(negative)
    below, up_to = (np.searchsorted(order, positive, side) for side in ("left", "right"))
    return float((below + up_to).mean() / (2 * len(negative)))


def auc_interval(
    positive: Float[np.ndarray, " p"], negative: Float[np.ndarray, " n"], rng: np.random.Generator, draws: int
) -> tuple[float, float]:
    """Return the 95 % interval of the AUC over resampled values of either class."""
    wins = (np.sign(positive[:, None] - negative) + 1) / 2
    up, down = (rng.multinomial(n, np.full(n, 1 / n), size=draws) for n in wins.shape)
    found = ((up @ wins) * down).sum(1) / wins.size
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def auc_rows(values: np.ndarray, codes: np.ndarray, ids: np.ndarray, fitted: np.ndarray, seed: int, draws: int) -> list[dict]:
    """Return the AUC of signed tokens, and of words of the vocabulary by their mean; of all, and without ``fitted`` ids.

    ``fitted`` are the words on which directions were fitted. The interval is over words, as tokens of one word are much alike.
    """
    found = []
    for words, kept in (("all", np.ones(len(ids), bool)), ("unseen", ~np.isin(ids, fitted))):
        groups = [(values[kept & (codes == sign)], ids[kept & (codes == sign)]) for sign in (POSITIVE, NEGATIVE)]
        if not all(len(group) for group, _ in groups):
            continue
        means = [pd.Series(group.astype(np.float64)).groupby(own).mean().to_numpy() for group, own in groups]
        low, high = auc_interval(*means, stream(seed, "auc", words), draws)
        found.append({
            "words": words, "auc_tokens": auc(*(group for group, _ in groups)), "n_tokens": sum(len(g) for g, _ in groups),
            "auc_words": auc(*means), "ci_lo": low, "ci_hi": high, "n_words": sum(map(len, means)),
        })  # fmt: skip
    return found
