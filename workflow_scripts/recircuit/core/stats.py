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


def bootstrap_ratio(
    numerator: Float[np.ndarray, "n"],
    denominator: Float[np.ndarray, "n"],
    rng: np.random.Generator,
    *,
    draws: int = 1000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Return the percentile interval of ``mean(numerator) / mean(denominator)`` over resampled prompts (pairs kept)."""
    n = len(numerator)
    # Counts instead of indices: one matrix product gives all resampled means.
    counts = rng.multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float64)
    ratios = (counts @ numerator.astype(np.float64)) / (counts @ denominator.astype(np.float64))
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
