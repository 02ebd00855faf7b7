"""CPU time of one thread, and the rate of a large matrix product."""

import time

import torch


def cpu(work):
    """Return (CPU seconds, result)."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def matmul_rate(size: int = 1024, repeats: int = 20) -> float:
    """Return fp32 GFLOP/s of a large matrix product."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    a @ b
    seconds, _ = cpu(lambda: [a @ b for _ in range(repeats)])
    return 2 * size**3 * repeats / seconds / 1e9
