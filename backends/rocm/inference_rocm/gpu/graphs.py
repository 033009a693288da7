"""Passes that are captured once and launched as one: CUDA graphs, which are HIP graphs on AMD GPUs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any

import torch

from inference_rocm.gpu.device import Device

__all__ = ["Graphs", "synchronize"]

WARM_UPS = 2
"""Times that a pass is run before it is captured: kernels are compiled, and libraries take their workspaces."""

_capturing = threading.Lock()
"""PyTorch captures one graph at a time in a process, and nobody may wait for the device meanwhile."""


def synchronize(device: Device) -> None:
    """Wait until the GPU has done all that it was told to."""
    if not device.interpreted:
        with _capturing:
            torch.cuda.synchronize(device.torch)


class Graphs:
    """Captured passes by their shape. They hold addresses: whoever moves memory must `forget` them.

    The interpreter captures nothing; it runs a pass each time.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._graphs: dict[Hashable, Callable[[], None]] = {}
        self._pool: Any = None
        # One for all: what a pass frees is given to the next one only if it was on the same stream.
        self._stream: Any = None

    def __contains__(self, key: Hashable) -> bool:
        return key in self._graphs

    def prepare(self, key: Hashable, compute: Callable[[], None]) -> None:
        """Capture a pass, which is run a few times for that."""
        self._graphs[key] = compute if self._device.interpreted else self._captured(compute)

    def run(self, key: Hashable) -> None:
        """Launch a pass that was prepared."""
        self._graphs[key]()

    def forget(self) -> None:
        """Memory has moved, or is to be given back."""
        if self._graphs:
            synchronize(self._device)  # the last one may still run
        self._graphs.clear()
        self._pool = None

    def _captured(self, compute: Callable[[], None]) -> Callable[[], None]:
        here = torch.cuda.current_stream(self._device.torch)
        if self._stream is None:
            self._stream = torch.cuda.Stream(self._device.torch)  # type: ignore[no-untyped-call]
        # The outer context comes back to this stream even where ending the capture fails. Other threads may go on with
        # other models meanwhile: what they do is no part of this, and "thread_local" does not forbid it.
        with _capturing, torch.cuda.stream(here):
            self._stream.wait_stream(here)
            with torch.cuda.stream(self._stream):
                for _ in range(WARM_UPS):
                    compute()
            here.wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                compute()
            self._pool = self._pool or graph.pool()
            return graph.replay
