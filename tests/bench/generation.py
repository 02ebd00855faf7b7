"""Writing with a cache of keys and values against reading the whole text again for every token; CPU time of one thread."""

import statistics

import torch
from torch import Tensor

from bench.timing import cpu
from recircuit.core.model import Model
from recircuit.runs.forward import forward
from recircuit.runs.generation import generate


def without_cache(model: Model, tokens: Tensor, steps: int, chunk: int) -> Tensor:
    """Write the likeliest tokens, each after a forward pass over the whole text so far."""
    parts = []
    for text in tokens.split(chunk):
        for _ in range(steps):
            end = torch.full((len(text),), text.shape[1] - 1, device=text.device)
            text = torch.cat([text, forward(model, text, end).argmax(1, keepdim=True)], 1)
        parts.append(text[:, tokens.shape[1] :])
    return torch.cat(parts)


def bench_generation(name: str, model: Model, tokens: Tensor, steps: int, chunk: int = 64, repeats: int = 3) -> float:
    """Print and return how many times faster ``steps`` tokens are written with the cache, medians of interleaved runs.

    ``tokens`` [n T] are prompts. The same tokens must come out both ways.
    """
    slow, fast = [], []
    for _ in range(repeats):
        seconds, expected = cpu(lambda: without_cache(model, tokens, steps, chunk))
        slow.append(seconds)
        seconds, found = cpu(lambda: generate(model, tokens, steps, chunk))
        fast.append(seconds)
    same, ratio = float((found == expected).float().mean()), statistics.median(slow) / statistics.median(fast)
    n, length = tokens.shape
    print(f"\n{name}: {steps} tokens written after {n} prompts of {length} tokens")
    print(f"  without a cache {statistics.median(slow):.2f} s, with one {statistics.median(fast):.2f} s: {ratio:.1f} x")
    print(f"  {100 * same:.2f} % of the tokens are the same both ways", flush=True)
    return ratio
