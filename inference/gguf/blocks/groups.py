"""`Groups`: what every quantised block format comes to, whatever way it packs its bits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Groups", "output"]


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
