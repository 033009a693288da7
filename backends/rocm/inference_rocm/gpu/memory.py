"""A GPU's memory: what is free, what is taken, and saying so before it runs out."""

from __future__ import annotations

from collections.abc import Callable

import torch

from inference.errors import InsufficientMemoryError
from inference.types import MemoryUse
from inference_rocm.gpu.device import Device
from inference_rocm.gpu.graphs import synchronize
from inference_rocm.memory import ran_out as ran_out_of_main

__all__ = ["free_bytes", "memory_use", "ran_out", "release", "require"]


def require(device: Device, workspace: Callable[[], int]) -> Callable[[int, str], None] | None:
    """What is to be asked before memory is taken: it raises `InsufficientMemoryError` if there is not so much, with a
    purpose for the message. None for the interpreter. `workspace`: bytes that must be left for steps."""
    if device.interpreted:
        return None

    def enough(size: int, purpose: str) -> None:
        free = max(0, (free_bytes(device) or 0) - workspace())
        if size > free:
            there = f"{free / 2**30:.2f} GiB free beside what steps take"
            raise InsufficientMemoryError(f"{purpose} take {size / 2**30:.2f} GiB, and the GPU has {there}.")

    return enough


def free_bytes(device: Device) -> int | None:
    """Of the GPU's memory, what PyTorch keeps for later included; None for the interpreter."""
    if device.interpreted:
        return None
    free, _ = torch.cuda.mem_get_info(device.torch)
    kept = torch.cuda.memory_reserved(device.torch) - torch.cuda.memory_allocated(device.torch)
    return free + kept


def release(device: Device) -> None:
    """Give back to the GPU what PyTorch keeps for later."""
    if not device.interpreted:
        try:
            synchronize(device)
        finally:
            torch.cuda.empty_cache()


def memory_use(device: Device, weights: int, kv: int, peak_kv: int) -> MemoryUse:
    """As PyTorch's allocator counts it, for all models of the process; computed from the sizes for the interpreter."""
    if device.interpreted:
        return MemoryUse(weights + kv, weights + peak_kv, measured=False)
    return MemoryUse(
        torch.cuda.memory_allocated(device.torch), torch.cuda.max_memory_allocated(device.torch), measured=True
    )


def ran_out(error: BaseException) -> bool:
    """Whether this says that there was no memory."""
    return isinstance(error, torch.OutOfMemoryError) or ran_out_of_main(error)
