"""Telling that memory ran out: PyTorch has no exception of its own for it on CPUs."""

from __future__ import annotations

__all__ = ["ran_out"]


def ran_out(error: BaseException) -> bool:
    """Whether this says that there was no memory."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error))
