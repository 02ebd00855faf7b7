"""Random streams that depend only on their labels, and intervals over prompts."""

import hashlib

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
