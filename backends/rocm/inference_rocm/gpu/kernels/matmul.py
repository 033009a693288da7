"""Many rows of activations times a matrix: weights are decoded to tiles, which the matrix cores multiply.

Sums are float32. The eight fields of the units' integers are eight tiles, whose columns are those of the activations
that belong to them.
"""

from __future__ import annotations

import triton
import triton.language as tl

from inference_rocm.gpu.kernels.decode import number


@triton.jit
def _rows_of(tile, pairs, expert_of_tile, rows, ROWS: tl.constexpr, SHARE: tl.constexpr):
    """The rows of `out` that a tile computes, those of the activations, which of them are there, and the expert."""
    row = tile * ROWS + tl.arange(0, ROWS)
    if SHARE:
        out_row = tl.load(pairs + row)
        return out_row, tl.maximum(out_row, 0) // SHARE, out_row >= 0, tl.load(expert_of_tile + tile)
    return row, row, row < rows, 0


@triton.jit
def _rounded(numbers, TYPE: tl.constexpr):
    """As TYPE. To bfloat16 by integers, ties to even: where there is no instruction for it, the compiler asks of each
    number whether it is one, and has too few scalar registers for so many answers. The NaN of the GPU's own
    arithmetic, 0x7FC00000 with either sign, stays one; others may become infinite or 0."""
    if tl.bfloat16 == TYPE and numbers.dtype != tl.bfloat16:
        bits = numbers.to(tl.float32).to(tl.uint32, bitcast=True)
        rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        rounded = numbers.to(TYPE)
    return rounded


@triton.jit
def _store_tile(sums, out, bias, row, there, outputs, output, ADD: tl.constexpr, BIASED: tl.constexpr, expert):
    mask = there[:, None] & (output < outputs)[None, :]
    if BIASED:
        sums += tl.load(bias + expert * outputs + output, mask=output < outputs, other=0.0)[None, :]
    to = out + row.to(tl.int64)[:, None] * outputs + output[None, :]
    if ADD:
        sums += tl.load(to, mask=mask, other=0.0)
    tl.store(to, sums, mask=mask)


@triton.jit(do_not_specialize=["rows", "units"])
def matmul(
    vectors, low, high, scales, supers, bias, pairs, expert_of_tile, out, rows, outputs, units,
    ROWS: tl.constexpr, OUTPUTS: tl.constexpr, UNITS: tl.constexpr, LOW: tl.constexpr, HIGH: tl.constexpr,
    scale: tl.constexpr, code: tl.constexpr, TYPE: tl.constexpr, DOT: tl.constexpr,
    ADD: tl.constexpr, BIASED: tl.constexpr, SHARE: tl.constexpr,
):  # fmt: skip
    """out = vectors x matrix^T + bias; with ADD what is in `out` is added. Activations and weights are rounded to TYPE
    and multiplied as DOT, which is TYPE, or float32 where that cannot be multiplied.

    With SHARE > 0 there is one matrix for each expert: tile i multiplies with expert_of_tile[i] (negative: it has
    nothing to do), and row r of it is out[p] = vectors[p // SHARE] x matrix^T, where p is pairs[i x ROWS + r], or
    nothing where that is negative.
    """
    tile = tl.program_id(1)
    output = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    row, vector, there, expert = _rows_of(tile, pairs, expert_of_tile, rows, ROWS, SHARE)
    if SHARE:
        if expert < 0:
            return
        start = expert.to(tl.int64) * outputs * units
        low += start * 4
        if HIGH:
            high += start * 4
        scales += start
        if supers is not None:
            supers += start // 8
    integer = tl.arange(0, 4 * UNITS)
    line = vectors + vector.to(tl.int64)[:, None] * units * 32
    sums = tl.zeros((ROWS, OUTPUTS), tl.float32)
    for first in range(0, units, UNITS):
        unit = first + integer // 4
        mask = (output < outputs)[:, None] & (unit < units)[None, :]
        at = output[:, None] * units + unit[None, :]
        places = at * 4 + integer[None, :] % 4
        lower = tl.load(low + places, mask=mask, other=0)
        upper = tl.load(high + places, mask=mask, other=0) if HIGH else lower
        scale_0, scale_1, offset_0, offset_1 = scale(scales, supers, at, at // 8, mask)
        columns = line + (unit * 32 + integer % 4)[None, :]
        seen = there[:, None] & (unit < units)[None, :]
        for place in tl.static_range(8):
            codes = code(number(lower, upper, LOW, HIGH, place))
            weights = scale_0 * codes + offset_0 if place < 4 else scale_1 * codes + offset_1
            part = _rounded(tl.load(columns + 4 * place, mask=seen, other=0.0), TYPE).to(DOT)
            sums = tl.dot(part, tl.trans(_rounded(weights, TYPE).to(DOT)), sums, input_precision="ieee")
    _store_tile(sums, out, bias, row, there, outputs, output, ADD, BIASED, expert)


@triton.jit(do_not_specialize=["rows"])
def matmul_plain(
    vectors, weights, bias, pairs, expert_of_tile, out, rows, outputs, inputs,
    ROWS: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr, TYPE: tl.constexpr, DOT: tl.constexpr,
    ADD: tl.constexpr, BIASED: tl.constexpr, SHARE: tl.constexpr,
):  # fmt: skip
    """The same for weights that are floats: [experts, outputs, inputs]."""
    tile = tl.program_id(1)
    output = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    row, vector, there, expert = _rows_of(tile, pairs, expert_of_tile, rows, ROWS, SHARE)
    if SHARE:
        if expert < 0:
            return
        weights += expert.to(tl.int64) * outputs * inputs
    within = tl.arange(0, INPUTS)
    line = vectors + vector.to(tl.int64)[:, None] * inputs
    matrix = weights + output.to(tl.int64)[:, None] * inputs
    sums = tl.zeros((ROWS, OUTPUTS), tl.float32)
    for first in range(0, inputs, INPUTS):
        column = first + within
        seen = (column < inputs)[None, :]
        part = tl.load(line + column[None, :], mask=there[:, None] & seen, other=0.0)
        weight = tl.load(matrix + column[None, :], mask=(output < outputs)[:, None] & seen, other=0.0)
        part, weight = _rounded(part, TYPE).to(DOT), _rounded(weight, TYPE).to(DOT)
        sums = tl.dot(part, tl.trans(weight), sums, input_precision="ieee")
    _store_tile(sums, out, bias, row, there, outputs, output, ADD, BIASED, expert)
