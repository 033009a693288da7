"""Sums in orders in which a GPU adds, for Triton's interpreter, which adds one number after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from triton.runtime import interpreter

__all__ = ["Order", "added_in"]

Numbers = NDArray[Any]


@dataclass(frozen=True)
class Order:
    """How Triton lays out a block for a kernel decides it."""

    each: int
    """Neighbours that a lane holds and adds one after the other."""
    lanes: int
    """Of a wave, which come together in the steps of Kogge and Stone."""
    halves: bool
    """Whether sums begin with numbers that lie half a block apart, or with neighbours."""

    def running(self, numbers: Numbers, axis: int) -> Numbers:
        """The sums up to each number."""
        last = np.moveaxis(numbers, axis, -1)
        count = last.shape[-1]
        each = min(self.each, count)
        lanes = min(self.lanes, count // each)
        held = np.cumsum(last.reshape(*last.shape[:-1], -1, lanes, each), axis=-1, dtype=numbers.dtype)
        upto = held[..., -1].copy()  # [..., waves, lanes]
        step = 1
        while step < lanes:
            upto[..., step:] = upto[..., step:] + upto[..., :-step]
            step *= 2
        held[..., 1:, :] += upto[..., :-1, None]
        waves = np.cumsum(upto[..., -1], axis=-1, dtype=numbers.dtype)
        held[..., 1:, :, :] += waves[..., :-1, None, None]
        return np.moveaxis(held.reshape(last.shape), -1, axis)

    def sum(self, numbers: Numbers, axis: int | None, keepdims: bool) -> Any:
        last = numbers.reshape(-1) if axis is None else np.moveaxis(numbers, axis, -1)
        while last.shape[-1] > 1:
            half = last.shape[-1] // 2
            last = last[..., :half] + last[..., half:] if self.halves else last[..., ::2] + last[..., 1::2]
        if keepdims:
            return last.reshape((1,) * numbers.ndim) if axis is None else np.moveaxis(last, -1, axis)
        return last[..., 0]


@contextmanager
def added_in(orders: Sequence[Order]) -> Iterator[None]:
    """One kernel's launch after the other takes the next of these orders."""
    launch, following = interpreter.GridExecutor.__call__, cycle(orders)
    now = [orders[0]]

    def launched(*args: Any, **more: Any) -> None:
        now[0] = next(following)
        launch(*args, **more)

    def cumsum(scan: Any, block: Any) -> list[Any]:
        return [scan.to_tensor(now[0].running(block.handle.data, scan.axis), dtype=block.dtype)]

    def total(reduce: Any, block: Any) -> Any:
        return reduce.to_tensor(now[0].sum(block.handle.data, reduce.axis, reduce.keep_dims), block.dtype)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter.GridExecutor, "__call__", launched)
        patch.setattr(interpreter.ScanOps, "cumsum", cumsum)
        patch.setattr(interpreter.ReduceOps, "sum", total)
        yield
