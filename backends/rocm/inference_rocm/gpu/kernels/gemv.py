"""Matrix times a few vectors, with quantised and with plain weights.

A program is one wave, which goes along `OUTPUTS` rows of the matrix: a lane takes whole units, so that what a unit's
scale multiplies is summed in the lane, and lanes meet once, at the end. Sums are float32.
"""

from __future__ import annotations

import triton
import triton.language as tl

from inference_rocm.gpu.kernels.decode import number


@triton.jit
def _unit_sums(
    low, high, vector, seen, code: tl.constexpr, LOW: tl.constexpr, HIGH: tl.constexpr, FIRST: tl.constexpr,
    LAST: tl.constexpr, SHIFTED: tl.constexpr,
):  # fmt: skip
    """Of fields FIRST to LAST of each unit: codes times activations, and activations alone."""
    part = tl.load(vector + 4 * FIRST, mask=seen, other=0.0).to(tl.float32)
    products = code(number(low, high, LOW, HIGH, FIRST)) * part
    alone = part
    for place in tl.static_range(FIRST + 1, LAST):
        part = tl.load(vector + 4 * place, mask=seen, other=0.0).to(tl.float32)
        products = tl.fma(code(number(low, high, LOW, HIGH, place)), part, products)
        if SHIFTED:
            alone += part
    return tl.sum(products, axis=2), tl.sum(alone, axis=2)


@triton.jit
def _store(sums, out, bias, row, outputs, output, ADD: tl.constexpr, BIASED: tl.constexpr, bias_row):
    total = tl.sum(sums, axis=1)
    there = output < outputs
    if BIASED:
        total += tl.load(bias + bias_row * outputs + output, mask=there, other=0.0)
    to = out + row * outputs + output
    if ADD:
        total += tl.load(to, mask=there, other=0.0)
    tl.store(to, total, mask=there)


@triton.jit(do_not_specialize=["units"])
def gemv(
    vectors, low, high, scales, supers, bias, chosen, out, outputs, units,
    ROWS: tl.constexpr, OUTPUTS: tl.constexpr, UNITS: tl.constexpr, LOW: tl.constexpr, HIGH: tl.constexpr,
    GROUP: tl.constexpr, SHIFTED: tl.constexpr, scale: tl.constexpr, code: tl.constexpr,
    ADD: tl.constexpr, BIASED: tl.constexpr, SHARE: tl.constexpr,
):  # fmt: skip
    """out[row] = matrix x vectors[row] + bias, for ROWS rows; with ADD what is in `out` is added.

    With SHARE > 0 there is one matrix for each expert: program (_, pair) computes out[pair] of vectors[pair // SHARE]
    with the matrix chosen[pair]. ROWS is 1 then.
    """
    output = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    lane = tl.arange(0, UNITS)
    integer = tl.arange(0, 4)
    first_row = tl.program_id(1)
    first_vector = first_row
    matrix = 0
    if SHARE:
        first_vector = first_row // SHARE
        matrix = tl.load(chosen + first_row)
    # An expert's planes may lie farther than 32 bits reach; inside of them they do.
    start = matrix.to(tl.int64) * outputs * units if SHARE else 0
    low += start * 4
    if HIGH:
        high += start * 4
    scales += start
    if supers is not None:
        supers += start // 8
    sums = (tl.zeros((OUTPUTS, UNITS), tl.float32),) * ROWS
    for first in range(0, units, UNITS):
        unit = first + lane
        mask = (output < outputs)[:, None] & (unit < units)[None, :]
        at = output[:, None] * units + unit[None, :]
        places = (at * 4)[:, :, None] + integer[None, None, :]
        lower = tl.load(low + places, mask=mask[:, :, None], other=0)
        upper = tl.load(high + places, mask=mask[:, :, None], other=0) if HIGH else lower
        scale_0, scale_1, offset_0, offset_1 = scale(scales, supers, at, at // 8, mask)
        seen = (unit < units)[None, :, None]
        new = ()
        for row in tl.static_range(ROWS):
            vector = vectors + ((first_vector + row) * units + unit[None, :, None]) * 32 + integer[None, None, :]
            if GROUP == 32:
                products, alone = _unit_sums(lower, upper, vector, seen, code, LOW, HIGH, 0, 8, SHIFTED)
                part = scale_0 * products
                if SHIFTED:
                    part += offset_0 * alone
            else:
                products, alone = _unit_sums(lower, upper, vector, seen, code, LOW, HIGH, 0, 4, SHIFTED)
                part = scale_0 * products + offset_0 * alone
                products, alone = _unit_sums(lower, upper, vector, seen, code, LOW, HIGH, 4, 8, SHIFTED)
                part += scale_1 * products + offset_1 * alone
            new = new + (sums[row] + part,)
        sums = new
    for row in tl.static_range(ROWS):
        _store(sums[row], out, bias, first_row + row, outputs, output, ADD, BIASED, matrix)


@triton.jit
def gemv_plain(
    vectors, weights, bias, chosen, out, outputs, inputs,
    ROWS: tl.constexpr, OUTPUTS: tl.constexpr, LANES: tl.constexpr,
    ADD: tl.constexpr, BIASED: tl.constexpr, SHARE: tl.constexpr,
):  # fmt: skip
    """The same for weights that are floats: [experts, outputs, inputs]."""
    output = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    within = 4 * tl.arange(0, LANES)[None, :, None] + tl.arange(0, 4)[None, None, :]
    first_row = tl.program_id(1)
    first_vector = first_row
    matrix = 0
    if SHARE:
        first_vector = first_row // SHARE
        matrix = tl.load(chosen + first_row)
        weights += matrix.to(tl.int64) * outputs * inputs
    line = weights + (output.to(tl.int64) * inputs)[:, None, None]
    sums = (tl.zeros((OUTPUTS, LANES), tl.float32),) * ROWS
    for first in range(0, inputs, 4 * LANES):
        column = first + within
        seen = column < inputs
        weight = tl.load(line + column, mask=seen & (output < outputs)[:, None, None], other=0.0).to(tl.float32)
        new = ()
        for row in tl.static_range(ROWS):
            part = tl.load(vectors + (first_vector + row) * inputs + column, mask=seen, other=0.0).to(tl.float32)
            new = new + (sums[row] + tl.sum(weight * part, axis=2),)
        sums = new
    for row in tl.static_range(ROWS):
        _store(sums[row], out, bias, first_row + row, outputs, output, ADD, BIASED, matrix)
