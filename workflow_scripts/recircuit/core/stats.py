"""Random streams that depend only on their labels, intervals over prompts, and a paired test."""

import hashlib
from math import comb, sqrt
from statistics import NormalDist

import numpy as np
from jaxtyping import Float


def stream(seed: int, *labels: str | int) -> np.random.Generator:
    """Return an independent, reproducible random stream for ``(seed, labels)``.

    The key is a SHA-256 of all of them, so streams do not depend on the order in which they are asked for and adding one
    moves no other (the idea is TransformerLens', ``utilities/statistics.py``).
    """
    key = hashlib.sha256("\x1f".join(map(str, (seed, *labels))).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(key[:16], "big")))


def bootstrap_percent(
    scores: Float[np.ndarray, "k n"],
    full: Float[np.ndarray, " n"],
    rng: np.random.Generator,
    *,
    draws: int = 1000,
    level: float = 0.95,
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Return the percentile interval of ``100 * mean(score) / mean(full)`` over resampled prompts, for each row of scores.

    Prompts are resampled in pairs (score and full), and the same way for every row.
    """
    n = len(full)
    # Counts instead of indices: one matrix product gives all resampled sums.
    counts = rng.multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float64)
    percents = 100 * (counts @ scores.T.astype(np.float64)) / (counts @ full.astype(np.float64))[:, None]
    low, high = np.quantile(percents, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def wilson(hits: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval of a share of ``n`` prompts, as shares (Wilson, JASA 1927, without a correction).

    ``hits`` need not be whole: a mean over draws of the number of prompts that are right.
    """
    if n < 1 or not 0 <= hits <= n:
        raise ValueError(f"{hits} of {n} prompts is no share")
    z, share = NormalDist().inv_cdf((1 + level) / 2), hits / n
    centre, spread = share + z * z / (2 * n), z * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At the ends the interval touches 0 and 1 exactly; rounding must not carry it beyond.
    low, high = ((centre + sign * spread) / (1 + z * z / n) for sign in (-1, 1))
    return (0.0 if hits == 0 else low), (1.0 if hits == n else high)


def paired_test(first_only: int, second_only: int) -> float:
    """Return the two-sided p-value of McNemar's exact test, the sign test of discordant pairs (1 where there are none).

    The arguments count the prompts that are right with the first alone, and with the second alone.
    """
    n, fewer = first_only + second_only, min(first_only, second_only)
    tail = sum(comb(n, k) for k in range(fewer + 1))
    return min(1.0, 2 * tail / 2**n)
