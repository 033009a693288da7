"""A `torch.cuda` without a GPU: it writes down what it is asked for, and computes on the CPU what a GPU would.

A graph is what a pass asked PyTorch and Triton's interpreter for while it was captured, operation by operation, with
the tensors and the numbers that were passed then; a replay asks for the very same. So a pass that hangs on anything
else goes wrong as it would on a GPU. What is copied to pinned memory is there once it was waited for, and not before.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from inference_rocm.gpu.device import Device
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from triton.runtime import interpreter

__all__ = ["PRETENDED", "RecordedCuda", "Stream"]

PRETENDED = Device(torch.device("cpu"), wave=64, units=1)
"""A GPU, as far as the code that launches can tell."""
GARBAGE = 0x7E
"""In every byte of pinned memory that nothing was copied to yet: no token and no logit that there could be."""
WAITING = ("item", "tolist", "numpy", "nonzero", "__bool__", "__int__", "__float__")
"""What waits for the device, to see what a tensor holds: no graph can hold that."""


@dataclass(frozen=True, slots=True)
class Stream:
    number: int
    """0 is that on which each thread begins."""
    cuda: RecordedCuda = field(repr=False, compare=False)

    def wait_stream(self, other: Stream) -> None:
        self.cuda.note(f"stream {self.number} waits for stream {other.number}")


class Graph:
    """A `torch.cuda.CUDAGraph`."""

    def __init__(self, cuda: RecordedCuda) -> None:
        cuda.graphs += 1
        self.number = cuda.graphs
        self.work: list[Callable[[], None]] = []
        self.in_pool: int | None = None
        self._cuda = cuda
        weakref.finalize(self, cuda.note, f"graph {self.number} is dropped")

    def pool(self) -> int | None:
        return self.in_pool

    def replay(self) -> None:
        self._cuda.note(f"graph {self.number} is replayed")
        for operation in self.work:
            operation()


class Event:
    """A `torch.cuda.Event`."""

    def __init__(self, cuda: RecordedCuda) -> None:
        self._cuda = cuda
        self._copies = 0

    def record(self) -> None:
        self._copies = self._cuda.copies_asked
        self._cuda.note(f"event after {self._copies} copies")

    def synchronize(self) -> None:
        self._cuda.note("event waited for")
        self._cuda.carry_out(self._copies)


class Capture(TorchDispatchMode):
    """Writes down what one thread asks for."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.paused = False
        self._work = graph.work

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = operation(*args, **(kwargs or {}))
        if not self.paused:
            self._work.append(lambda: _again(made, operation(*args, **(kwargs or {}))))
        return made

    def launch(self, kernel: Callable[[], None]) -> None:
        self._work.append(kernel)
        self.paused = True
        try:
            kernel()
        finally:
            self.paused = False


def _again(made: Any, anew: Any) -> None:
    """What was made again goes to where it was made the first time, for that is where others will look for it."""
    for old, new in zip(tree_leaves(made), tree_leaves(anew), strict=True):
        if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
            old.copy_(new)


class RecordedCuda:
    """What is asked of it is in `asked`, in order."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.asked: list[str] = []
        self.free = 8 << 30
        """Bytes that the driver says are free."""
        self.kept = 0
        """Bytes that PyTorch keeps for later."""
        self.graphs = 0
        self.copies_asked = 0
        self._copies: list[Callable[[], Any]] = []
        self._arrived = 0
        self._pools = 0
        self._streams = 0
        self._here = threading.local()
        self._capturing = 0
        for name in (
            "current_stream", "stream", "graph", "synchronize", "empty_cache", "mem_get_info", "memory_reserved",
            "memory_allocated", "max_memory_allocated", "set_device", "current_device",
        ):  # fmt: skip
            patch.setattr(torch.cuda, name, getattr(self, f"_{name}"))
        patch.setattr(torch.cuda, "Stream", self._new_stream)
        patch.setattr(torch.cuda, "Event", lambda: Event(self))
        patch.setattr(torch.cuda, "CUDAGraph", lambda: Graph(self))
        self._replace_pinned_memory(patch)
        for name in WAITING:
            patch.setattr(Tensor, name, self._refused_in_a_capture(name))
        launch = interpreter.GridExecutor.__call__
        patch.setattr(interpreter.GridExecutor, "__call__", lambda *args, **more: self._launch(launch, *args, **more))

    def note(self, what: str) -> None:
        self.asked.append(what)

    def since(self, place: int) -> list[str]:
        """What was asked for later than the first `place` things."""
        return self.asked[place:]

    # Streams and graphs -----------------------------------------------------------------------------------------------

    def _current_stream(self, device: torch.device | None = None) -> Stream:
        return getattr(self._here, "stream", Stream(0, self))

    def _new_stream(self, device: torch.device | None = None) -> Stream:
        self._streams += 1
        return Stream(self._streams, self)

    @contextmanager
    def _stream(self, stream: Stream) -> Iterator[None]:
        before = self._current_stream()
        self._here.stream = stream
        try:
            yield
        finally:
            self._here.stream = before

    @contextmanager
    def _graph(
        self, graph: Graph, pool: int | None = None, stream: Stream | None = None, capture_error_mode: str = "global"
    ) -> Iterator[None]:
        assert stream is not None
        self.note(f"graph {graph.number} is captured on stream {stream.number}, pool {pool}, {capture_error_mode}")
        if pool is None:
            self._pools += 1
        graph.in_pool = pool or self._pools
        self._capturing += 1
        self._here.capture = Capture(graph)
        try:
            with self._stream(stream), self._here.capture:
                yield
        finally:
            self._here.capture = None
            self._capturing -= 1
            self.note(f"graph {graph.number} is made")

    def _launch(self, launch: Callable[..., None], *args: Any, **more: Any) -> None:
        capture: Capture | None = getattr(self._here, "capture", None)
        if capture is None:
            launch(*args, **more)
        else:
            capture.launch(lambda: launch(*args, **more))

    def _refused_in_a_capture(self, name: str) -> Callable[..., Any]:
        look = getattr(Tensor, name)

        def looked(*args: Any, **more: Any) -> Any:
            capture: Capture | None = getattr(self._here, "capture", None)
            if capture is not None and not capture.paused:
                raise RuntimeError(f"operation not permitted when stream is capturing: {name}")
            return look(*args, **more)

        return looked

    def _synchronize(self, device: torch.device | None = None) -> None:
        if self._capturing:
            raise RuntimeError("operation not permitted when stream is capturing: synchronize")
        self.note("synchronized")
        self.carry_out(self.copies_asked)

    # Memory -----------------------------------------------------------------------------------------------------------

    def _empty_cache(self) -> None:
        self.note("cache emptied")
        self.free, self.kept = self.free + self.kept, 0

    def _mem_get_info(self, device: torch.device | None = None) -> tuple[int, int]:
        self.note("free memory asked for")
        return self.free, 16 << 30

    def _memory_reserved(self, device: torch.device | None = None) -> int:
        return (1 << 30) + self.kept

    def _memory_allocated(self, device: torch.device | None = None) -> int:
        return 1 << 30

    _max_memory_allocated = _memory_allocated

    def _set_device(self, device: torch.device | int) -> None:
        self.note(f"device {device}")

    def _current_device(self) -> int:
        return 0

    # Pinned memory ----------------------------------------------------------------------------------------------------

    def carry_out(self, copies: int) -> None:
        """So many of the copies that were asked for since the beginning."""
        while self._arrived < copies:
            with torch.inference_mode():
                self._copies.pop(0)()
            self._arrived += 1

    def _replace_pinned_memory(self, patch: pytest.MonkeyPatch) -> None:
        tensor, empty, copy = torch.tensor, torch.empty, Tensor.copy_

        def new_tensor(*args: Any, pin_memory: bool = False, **more: Any) -> Tensor:
            return tensor(*args, **more)

        def new_empty(*args: Any, pin_memory: bool = False, **more: Any) -> Tensor:
            made = empty(*args, **more)
            if pin_memory:
                made.view(-1).view(torch.uint8).fill_(GARBAGE)
                made.pinned = True  # type: ignore[attr-defined]
            return made

        def copied(to: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
            if not (non_blocking and getattr(to, "pinned", False)):
                return copy(to, source, non_blocking)
            what = source.clone()  # as it is now, in the stream's order
            self._copies.append(lambda: copy(to, what))
            self.copies_asked += 1
            return to

        patch.setattr(torch, "tensor", new_tensor)
        patch.setattr(torch, "empty", new_empty)
        patch.setattr(Tensor, "copy_", copied)
