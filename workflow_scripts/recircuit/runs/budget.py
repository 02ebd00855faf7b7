"""Work through prompts in chunks that fit the memory; halve the chunk that does not, and keep what is done."""

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from recircuit.core.errors import UserError, is_out_of_memory
from recircuit.core.model import Spec
from recircuit.runs.progress import Countdown

BLOCK = 8  # prompts summed at once; chunks are multiples of it, so that sums do not depend on the chunk

Result = TypeVar("Result")


def row_bytes(spec: Spec, length: int, itemsize: int = 4) -> int:
    """Bytes that one prompt of ``length`` tokens needs at the widest point of a layer.

    The MLP's hidden state before and after the activation (a Llama's gate and their product too), q, k, v, the normalised
    input, and three copies of the residual stream; attention weights are counted too, although fused kernels do not keep them.
    """
    hidden = 4 if spec.family == "llama" else 2
    widest = hidden * spec.d_mlp + 3 * spec.n_heads * spec.d_head + 4 * spec.d_model
    return itemsize * length * (widest + spec.n_heads * length)


def chunk_size(spec: Spec, length: int, budget_bytes: float, itemsize: int = 4, *, most: int = 1024) -> int:
    """Return how many prompts to run at once: a multiple of BLOCK within the budget, at least BLOCK."""
    fits = int(budget_bytes // row_bytes(spec, length, itemsize))
    return max(BLOCK, min(most, fits) // BLOCK * BLOCK)


def in_chunks(
    work: Callable[[slice], Result], n: int, chunk: int, log: Callable[[str], None] | None = None
) -> Iterator[tuple[slice, Result]]:
    """Yield ``work(rows)`` for consecutive rows of ``n``; when memory runs out, halve the chunk and go on from there.

    ``log`` is told now and then how many rows are done, with all that is done to them before the next chunk is asked for.
    """
    start, countdown = 0, Countdown(n, log or (lambda line: None), "prompts")
    while start < n:
        rows = slice(start, min(n, start + chunk))
        try:
            result = work(rows)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if chunk <= BLOCK:
                raise UserError(
                    f"{BLOCK} prompts at once do not fit the memory; give the job more, or use fewer or shorter prompts"
                ) from error
            chunk = max(BLOCK, chunk // 2 // BLOCK * BLOCK)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            continue
        yield rows, result
        start = rows.stop
        countdown.step(rows.stop - rows.start)


class Mean:
    """A mean over prompts that is the same whatever the chunks: float64 sums over blocks of fixed size, in order."""

    def __init__(self) -> None:
        self.total: Tensor | None = None
        self.count = 0

    def add(self, x: Tensor) -> None:
        """Add values [n, ...]; all chunks but the last must be multiples of BLOCK."""
        for block in x.split(BLOCK):
            part = block.double().sum(0)
            self.total = part if self.total is None else self.total + part
        self.count += len(x)

    def value(self, dtype: torch.dtype) -> Tensor:
        """Return the mean, [...]."""
        return (self.total / self.count).to(dtype)
