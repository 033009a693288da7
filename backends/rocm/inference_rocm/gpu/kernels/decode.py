"""What a unit's numbers stand for, by block format: weight = scale x code + offset.

A format's function gives the scales of a unit's two halves and their offsets, float32, in the shape of `at`: the units'
places in the plane of scales; `above` are their places in the plane of scales of scales. What a number that is counted
from the middle lacks is in the offset. Values: ggml-quants.c, `dequantize_row_*`.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def number(low, high, LOW: tl.constexpr, HIGH: tl.constexpr, PLACE: tl.constexpr):
    """The numbers in field PLACE of both planes, int32."""
    if LOW == 8:
        if PLACE < 4:
            numbers = (low >> (8 * PLACE)) & 0xFF
        else:
            numbers = (high >> (8 * (PLACE - 4))) & 0xFF
    elif HIGH:
        numbers = (low.to(tl.int32) >> (LOW * PLACE)) & ((1 << LOW) - 1)
        numbers |= ((high.to(tl.int32) >> (HIGH * PLACE)) & ((1 << HIGH) - 1)) << LOW
    else:
        numbers = (low.to(tl.int32) >> (LOW * PLACE)) & ((1 << LOW) - 1)
    return numbers


# Codes ----------------------------------------------------------------------------------------------------------------


@triton.jit
def counted(numbers):
    """Numbers are codes."""
    return numbers.to(tl.float32)


@triton.jit
def iq4(numbers):
    """The table of IQ4_NL, which a polynomial comes within 0.44 of: GPUs look up slowly."""
    t = numbers.to(tl.float32) - 7.5
    value = (((0.00158604 * t + 0.0786677) * t - 0.137193) * t + 11.5172) * t - 4.30125
    return tl.floor(value + 0.5)


@triton.jit
def e2m1(numbers):
    """Twice a number of one sign bit, two of exponent and one of mantissa: float16's bits in its places."""
    bits = ((numbers & 8) << 12) | ((numbers & 7) << 9)
    return bits.to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32) * 32768.0


# Scales ---------------------------------------------------------------------------------------------------------------


@triton.jit
def half(bits):
    """The float16 in the lower 16 bits, float32."""
    return bits.to(tl.uint16).to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def signed(byte):
    """The lower 8 bits as a number from -128 to 127, float32."""
    return byte.to(tl.int8).to(tl.float32)


@triton.jit
def _around(scale, MIDDLE: tl.constexpr):
    return scale, scale, -MIDDLE * scale, -MIDDLE * scale


@triton.jit
def q8_0(scales, supers, at, above, mask):
    return _around(tl.load(scales + at, mask=mask, other=0.0).to(tl.float32), 128.0)


@triton.jit
def q4_0(scales, supers, at, above, mask):
    return _around(tl.load(scales + at, mask=mask, other=0.0).to(tl.float32), 8.0)


@triton.jit
def q5_0(scales, supers, at, above, mask):
    return _around(tl.load(scales + at, mask=mask, other=0.0).to(tl.float32), 16.0)


@triton.jit
def q4_1(scales, supers, at, above, mask):
    both = tl.load(scales + at, mask=mask, other=0)
    scale, offset = half(both), half(both >> 16)
    return scale, scale, offset, offset


@triton.jit
def q4_k(scales, supers, at, above, mask):
    both = tl.load(scales + at, mask=mask, other=0)
    blocks = tl.load(supers + above, mask=mask, other=0)
    scale = half(blocks) * (both & 0xFF).to(tl.float32)
    offset = -half(blocks >> 16) * ((both >> 8) & 0xFF).to(tl.float32)
    return scale, scale, offset, offset


@triton.jit
def q2_k(scales, supers, at, above, mask):
    both = tl.load(scales + at, mask=mask, other=0)
    blocks = tl.load(supers + above, mask=mask, other=0)
    scale, least = half(blocks), -half(blocks >> 16)
    return (
        scale * (both & 15).to(tl.float32),
        scale * ((both >> 8) & 15).to(tl.float32),
        least * ((both >> 4) & 15).to(tl.float32),
        least * ((both >> 12) & 15).to(tl.float32),
    )


@triton.jit
def _halves(scales, supers, at, above, mask, MIDDLE: tl.constexpr):
    both = tl.load(scales + at, mask=mask, other=0)
    block = tl.load(supers + above, mask=mask, other=0.0).to(tl.float32)
    first, second = block * signed(both), block * signed(both >> 8)
    return first, second, -MIDDLE * first, -MIDDLE * second


@triton.jit
def q3_k(scales, supers, at, above, mask):
    return _halves(scales, supers, at, above, mask, 4.0)


@triton.jit
def q6_k(scales, supers, at, above, mask):
    return _halves(scales, supers, at, above, mask, 32.0)


@triton.jit
def iq4_nl(scales, supers, at, above, mask):
    return _around(tl.load(scales + at, mask=mask, other=0.0).to(tl.float32), 0.0)


@triton.jit
def iq4_xs(scales, supers, at, above, mask):
    block = tl.load(supers + above, mask=mask, other=0.0).to(tl.float32)
    return _around(block * tl.load(scales + at, mask=mask, other=0).to(tl.float32), 0.0)


@triton.jit
def mxfp4(scales, supers, at, above, mask):
    # Half of 2 to the power of e - 127, as codes are doubled. Below e = 2 that is no normal float32.
    exponent = tl.load(scales + at, mask=mask, other=0).to(tl.int32)
    scale = ((tl.maximum(exponent, 2) - 1) << 23).to(tl.float32, bitcast=True)
    return _around(tl.where(exponent == 1, 0.5 * scale, tl.where(exponent == 0, 0.25 * scale, scale)), 0.0)


# What a kernel takes for a format -------------------------------------------------------------------------------------

CODES = {"IQ4_NL": iq4, "IQ4_XS": iq4, "MXFP4": e2m1}
"""By block format, where numbers are not just counted."""

SCALES = {
    "Q8_0": q8_0,
    "Q4_0": q4_0,
    "Q4_1": q4_1,
    "Q5_0": q5_0,
    "Q5_1": q4_1,
    "Q2_K": q2_k,
    "Q3_K": q3_k,
    "Q4_K": q4_k,
    "Q5_K": q4_k,
    "Q6_K": q6_k,
    "IQ4_NL": iq4_nl,
    "IQ4_XS": iq4_xs,
    "MXFP4": mxfp4,
}
