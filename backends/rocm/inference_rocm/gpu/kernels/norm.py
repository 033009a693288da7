"""RMS norms."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _row_of(rows, row, STRIDE: tl.constexpr, element, there):
    return tl.load(rows + row.to(tl.int64) * STRIDE + element, mask=there, other=0.0).to(tl.float32)


@triton.jit
def _normed(row, weight, epsilon, element, there, LENGTH: tl.constexpr):
    mean = tl.sum(row * row, axis=0) / LENGTH
    return row * tl.rsqrt(mean + epsilon) * tl.load(weight + element, mask=there, other=0.0)


@triton.jit
def rms_norm(
    rows, weight, out, epsilon,
    STRIDE: tl.constexpr, OUT_STRIDE: tl.constexpr, LENGTH: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    """One row; `out` may be the rows themselves."""
    row = tl.program_id(0)
    element = tl.arange(0, PADDED)
    there = element < LENGTH
    normed = _normed(_row_of(rows, row, STRIDE, element, there), weight, epsilon, element, there, LENGTH)
    tl.store(out + row.to(tl.int64) * OUT_STRIDE + element, normed.to(out.dtype.element_ty), mask=there)


@triton.jit
def add_normed(
    stream, rows, weight, epsilon, scale,
    STRIDE: tl.constexpr, ROWS_STRIDE: tl.constexpr, LENGTH: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    """To one row of the residual stream. Without a weight there is no norm."""
    row = tl.program_id(0)
    element = tl.arange(0, PADDED)
    there = element < LENGTH
    added = _row_of(rows, row, ROWS_STRIDE, element, there)
    if weight is not None:
        added = _normed(added, weight, epsilon, element, there, LENGTH)
    place = stream + row.to(tl.int64) * STRIDE + element
    tl.store(place, tl.load(place, mask=there, other=0.0) + scale * added, mask=there)
