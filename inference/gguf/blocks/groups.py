"""`Groups`: what every quantised block format comes to, whatever way it packs its bits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Groups", "StoredScales", "output"]


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """Quantised weights, unpacked but not decoded: value = scale x code + offset, where `group` elements that lie side
    by side have the same scale and the same offset.

    The last axis runs along a row of the tensor; the axes before it are those of the bytes that were unpacked. A device
    backend packs its own form from this. The layout that made it (`GroupedLayout`) says how many `bits` a code takes,
    the `code_range` that it lies in, and the `codebook` where codes are entries of a table.
    """

    codes: NDArray[np.int8]
    """[..., elements]."""
    scales: NDArray[np.float32]
    """[..., elements / group]."""
    offsets: NDArray[np.float32] | None
    """[..., elements / group]; None in formats without them, where code 0 stands for 0.0."""
    group: int
    """Elements that share a scale: 16 or 32."""

    def decode(self, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """The weights, float32 [..., elements]; rounded after the product, and again after the sum.

        `out` is filled instead of a new array: C-contiguous, of that shape and type.

        Raises:
            ValueError: `out` is another array than that.
        """
        values = output(self.codes.shape, out)
        np.copyto(values, self.codes)
        grouped = values.reshape(*self.scales.shape, self.group)
        with np.errstate(over="ignore", invalid="ignore"):
            grouped *= self.scales[..., None]
            if self.offsets is not None:
                grouped += self.offsets[..., None]
        return values


@dataclass(frozen=True, slots=True, eq=False)
class StoredScales:
    """Scales and offsets as a block format stores them, for a backend that keeps them so.

    Without steps, factors are the groups' scales and offset factors their offsets. With steps, scale = factor x step
    and offset = -(offset factor x offset step). Steps without factors are exponents: scale = 2 ** (step - 128).
    """

    factors: NDArray[np.float16] | None
    """[..., blocks]."""
    offset_factors: NDArray[np.float16] | None = None
    steps: NDArray[np.uint8] | NDArray[np.int8] | None = None
    """[..., groups]."""
    offset_steps: NDArray[np.uint8] | None = None

    def decoded(self) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Scales and offsets: float32 [n, groups], where factors are [n]."""
        if self.factors is None:
            assert self.steps is not None
            return np.ldexp(np.float32(1), self.steps.astype(np.int32) - 128), None
        scales = _singles(self.factors)
        offsets = None if self.offset_factors is None else _singles(self.offset_factors)
        if self.steps is not None:
            scales = scales * self.steps
        if offsets is not None and self.offset_steps is not None:
            offsets = -(offsets * self.offset_steps)
        return scales, offsets


def _singles(halves: NDArray[np.float16]) -> NDArray[np.float32]:
    """[n] as [n, 1]."""
    return halves.astype(np.float32)[:, None]


def output(shape: tuple[int, ...], out: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """`out`, or a new array where it is None.

    Raises:
        ValueError: `out` is no writeable, C-contiguous float32 array of that shape.
    """
    if out is None:
        return np.empty(shape, np.float32)
    if out.shape != shape or out.dtype != np.float32 or not (out.flags.c_contiguous and out.flags.writeable):
        raise ValueError(
            f"`out` must be a writeable, C-contiguous float32 array of shape {shape}; it is {out.dtype} {out.shape}, "
            f"{'' if out.flags.c_contiguous else 'not '}contiguous, {'' if out.flags.writeable else 'not '}writeable."
        )
    return out
