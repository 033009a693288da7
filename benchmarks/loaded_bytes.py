"""Bytes that kernels load, by their own index arithmetic: Triton's interpreter has every load's addresses and masks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from triton.runtime import interpreter

__all__ = ["WEIGHTS", "Argument", "Launch", "loaded_bytes"]

WEIGHTS = frozenset({"low", "high", "scales", "supers", "weights", "weight", "bias", "query_norm", "key_norm", "sinks"})
"""Names that kernels give to what comes from the file."""


@dataclass(frozen=True, slots=True)
class Argument:
    """A tensor that a kernel was given."""

    address: int
    loads: NDArray[np.uint32]
    """For each of its bytes: how many load instructions of programs ask for it. A byte that several lanes want at once
    is asked for once."""

    @property
    def touched(self) -> int:
        """Bytes that are loaded at all: what has to come from memory."""
        return int(np.count_nonzero(self.loads))

    @property
    def asked(self) -> int:
        """Bytes of all load instructions: what the caches are asked for."""
        return int(self.loads.sum())


@dataclass(slots=True)
class Launch:
    """One launch of a kernel, all of its programs together."""

    kernel: str
    arguments: Mapping[str, Argument]
    """Its tensors, by the kernel's names for them."""
    outside: int = field(default=0)
    """Loads and stores of lanes, where the mask lets them, anywhere but in these tensors."""

    def touched(self, names: Iterable[str] = WEIGHTS) -> int:
        return sum(self.arguments[name].touched for name in names if name in self.arguments)

    def asked(self, names: Iterable[str] = WEIGHTS) -> int:
        return sum(self.arguments[name].asked for name in names if name in self.arguments)

    def access(self, addresses: NDArray[np.uint64], size: int, *, counted: bool) -> NDArray[np.uint64]:
        """Of an instruction that loads or stores `size` bytes at each of these: those that are outside."""
        left = np.unique(addresses).astype(np.int64)
        for argument in self.arguments.values():
            offsets = left - argument.address
            inside = (offsets >= 0) & (offsets + size <= len(argument.loads))
            for byte in range(size if counted else 0):
                argument.loads[offsets[inside] + byte] += 1
            left = left[~inside]
        self.outside += len(left)
        return left.astype(np.uint64)


@contextmanager
def loaded_bytes() -> Iterator[list[Launch]]:
    """The launches of kernels in this context, in order. What they would load or store outside of their tensors is left
    out. The environment variable TRITON_INTERPRET=1 has to be set before kernels are imported."""
    builder, execute = interpreter.interpreter_builder, interpreter.GridExecutor.__call__
    load, store = builder.create_masked_load, builder.create_masked_store
    launches: list[Launch] = []

    def inside(pointers: Any, mask: Any, *, counted: bool) -> Any:
        size = max(1, pointers.get_element_ty().primitive_bitwidth // 8)
        addresses, there = np.broadcast_arrays(pointers.data, mask.data.astype(bool))  # some masks are numbers
        outside = launches[-1].access(addresses[there], size, counted=counted)
        return interpreter.TensorHandle(there & ~np.isin(addresses, outside), mask.dtype) if len(outside) else mask

    def counted_load(pointers: Any, mask: Any, *rest: Any) -> Any:
        return load(pointers, inside(pointers, mask, counted=True), *rest)

    def checked_store(pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        return store(pointers, value, inside(pointers, mask, counted=False), *rest)

    def counted_launch(self: Any, *values: Any, **named: Any) -> None:
        given = {**dict(zip(self.arg_names, values, strict=False)), **named}
        tensors = {name: value for name, value in given.items() if hasattr(value, "data_ptr")}
        launches.append(Launch(self.fn.__name__, {name: _argument(tensor) for name, tensor in tensors.items()}))
        execute(self, *values, **named)

    builder.create_masked_load, builder.create_masked_store = counted_load, checked_store
    interpreter.GridExecutor.__call__ = counted_launch
    try:
        yield launches
    finally:
        del builder.create_masked_load, builder.create_masked_store
        interpreter.GridExecutor.__call__ = execute


def _argument(tensor: Any) -> Argument:
    """From a tensor's first byte to its last, whatever lies between its rows."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    length = (last + 1) * tensor.element_size() if tensor.numel() else 0
    return Argument(tensor.data_ptr(), np.zeros(length, np.uint32))
