"""What PyTorch takes of the memory while something is computed on the CPU, as its allocator counts it."""

from __future__ import annotations

import gc
from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile

__all__ = ["most_allocated"]


def most_allocated(compute: Callable[[], object]) -> int:
    """Most bytes at a time of what was made meanwhile."""
    gc.collect()
    usual = gc.get_threshold()
    gc.set_threshold(200, 2, 2)  # Triton's interpreter leaves tensors in cycles of references
    try:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
            compute()
    finally:
        gc.set_threshold(*usual)
    assert found.profiler is not None
    events = [event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most
