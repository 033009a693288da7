"""`python -m benchmarks.machine_limits [THREADS]`: what this machine does at best, reading memory and multiplying.

It is a program of its own: its threads would slow the engine that is measured later in the same process.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from time import perf_counter
from typing import Any

from inference.measuring import Settings, first_line

__all__ = ["MachineLimits", "machine_limits", "measured_limits"]

BUFFER_BYTES = 2**30
"""Far more than any cache holds."""
SIDE = 2048
"""Rows and columns of the matrices."""
REPEATS = 20


@dataclass(frozen=True, slots=True)
class MachineLimits:
    """The best of several tries: what other programs take is not the machine's fault."""

    read: float
    """Bytes of memory in a second."""
    multiply: float
    """Floating-point operations of a matrix product in a second: bfloat16, or float32 where that is faster."""


@cache
def machine_limits(threads: int) -> MachineLimits:
    """What this program prints, from a fresh process; once in a run.

    Raises:
        RuntimeError: it failed.
    """
    line, _ = first_line([sys.executable, "-m", "benchmarks.machine_limits", str(threads)])
    return MachineLimits(*map(float, line.split()))


def measured_limits(buffer_bytes: int = BUFFER_BYTES, side: int = SIDE, repeats: int = REPEATS) -> MachineLimits:
    """Measured with the threads that PyTorch has now. (A sum of float64 reads fastest: it adds half as often as one of
    float32, and no conversion comes in between.)"""
    import torch

    buffer = torch.ones(buffer_bytes // 8, dtype=torch.float64)
    read = buffer_bytes / _fastest(buffer.sum, repeats)
    del buffer
    products = []
    for dtype in (torch.bfloat16, torch.float32):
        one, other = torch.randn(2, side, side).to(dtype)
        products.append(_fastest(lambda one=one, other=other: torch.mm(one, other), repeats))
    return MachineLimits(read, 2 * side**3 / min(products))


def _fastest(work: Callable[[], Any], repeats: int) -> float:
    """Seconds of the fastest of some calls, after one to warm up."""
    work()
    seconds = []
    for _ in range(repeats):
        began = perf_counter()
        work()
        seconds.append(perf_counter() - began)
    return min(seconds)


def main(threads: int) -> None:
    """Print both figures on a line."""
    import torch

    torch.set_num_threads(threads)
    limits = measured_limits()
    sys.stdout.write(f"{limits.read} {limits.multiply}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else Settings.here().threads)
