"""Rows of a matrix, decoded: token embeddings."""

from __future__ import annotations

import triton
import triton.language as tl

from inference_rocm.gpu.kernels.decode import number


@triton.jit
def _row(tokens, last, slots, row):
    """The row that is wanted: a token's, or that of the token which the slot drew last, where it is -1."""
    token = tl.load(tokens + row)
    if token < 0:
        token = tl.load(last + tl.maximum(tl.load(slots + row), 0))
    return token.to(tl.int64)


@triton.jit(do_not_specialize=["units"])
def gather(
    tokens, last, slots, low, high, scales, supers, out, units,
    UNITS: tl.constexpr, LOW: tl.constexpr, HIGH: tl.constexpr, scale: tl.constexpr, code: tl.constexpr,
):  # fmt: skip
    """out[i] = the row tokens[i] of a quantised matrix."""
    row = tl.program_id(0)
    start = _row(tokens, last, slots, row) * units
    unit = tl.program_id(1) * UNITS + tl.arange(0, UNITS)
    integer = tl.arange(0, 4)
    there = unit < units
    places = start * 4 + (unit * 4)[:, None] + integer[None, :]
    lower = tl.load(low + places, mask=there[:, None], other=0)
    upper = tl.load(high + places, mask=there[:, None], other=0) if HIGH else lower
    scale_0, scale_1, offset_0, offset_1 = scale(scales, supers, start + unit, start // 8 + unit // 8, there)
    to = out + (row.to(tl.int64) * units + unit)[:, None] * 32 + integer[None, :]
    for place in tl.static_range(8):
        codes = code(number(lower, upper, LOW, HIGH, place))
        first, offset = (scale_0, offset_0) if place < 4 else (scale_1, offset_1)
        tl.store(to + 4 * place, first[:, None] * codes + offset[:, None], mask=there[:, None])


@triton.jit
def gather_plain(tokens, last, slots, weights, out, inputs, INPUTS: tl.constexpr):
    """The same for a matrix of floats."""
    row = tl.program_id(0)
    column = tl.program_id(1) * INPUTS + tl.arange(0, INPUTS)
    line = weights + _row(tokens, last, slots, row) * inputs
    values = tl.load(line + column, mask=column < inputs, other=0.0).to(tl.float32)
    tl.store(out + row.to(tl.int64) * inputs + column, values, mask=column < inputs)
