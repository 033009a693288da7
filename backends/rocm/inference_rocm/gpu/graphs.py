"""Passes that are captured once and launched as one: CUDA graphs, which are HIP graphs on AMD GPUs."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch

from inference_rocm.gpu.device import Device

__all__ = ["Graphs"]

WARM_UPS = 2
"""Times that a pass is run before it is captured: kernels are compiled, and libraries take their workspaces."""


class Graphs:
    """Captured passes by their shape. They hold addresses: whoever moves memory must `forget` them.

    The interpreter captures nothing; it runs a pass each time.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._graphs: dict[Hashable, Callable[[], None]] = {}
        self._pool: Any = None

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
        self._graphs.clear()
        self._pool = None

    def _captured(self, compute: Callable[[], None]) -> Callable[[], None]:
        with torch.cuda.device(self._device.torch):
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UPS):
                    compute()
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, stream=stream):
                compute()
            self._pool = self._pool or graph.pool()
            return graph.replay
