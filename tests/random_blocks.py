"""Random weights in any block format, the same ones for the same generator. Every bit of codes and of groups' scales is
drawn; the blocks' own scales are set so that the weights spread as wanted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.gguf.blocks import GroupedLayout, block_layout

GROUP_SCALES = {
    "Q2_K": range(16),
    "Q3_K": range(-32, 32),
    "Q4_K": range(64),
    "Q5_K": range(64),
    "Q6_K": range(-128, 128),
    "IQ4_XS": range(-32, 32),
}
"""What a group's own scale may be, where a block has several groups. Their offsets have the same range."""


def random_blocks(format_name: str, shape: tuple[int, ...], rng: np.random.Generator, std: float) -> NDArray[np.uint8]:
    """A tensor of that shape (numpy's order) in blocks: uint8 [rows..., row bytes].

    Its weights are finite, their mean about 0 and their standard deviation about `std`. Blocks' scales differ in size
    and sign.

    Raises:
        ValueError: rows are no whole blocks, or half precision does not reach to the scales.
    """
    layout = block_layout(format_name)
    *rows, columns = shape
    if columns % layout.elements:
        raise ValueError(f"Rows of {columns} elements are no multiple of {format_name}'s {layout.elements}.")
    count = math.prod(shape) // layout.elements
    if not isinstance(layout, GroupedLayout):
        return _floats(format_name, rng.normal(0, std, count)).view(np.uint8).reshape(*rows, -1)
    blocks = rng.integers(0, 256, count * layout.fields.itemsize, dtype=np.uint8).view(layout.fields)
    centre, spread = _centre_and_spread(layout)
    fields = layout.fields.names or ()
    if "e" in fields:
        blocks["e"] = _exponents(std / spread, count, rng)
    else:
        vary = rng.uniform(0.5, 1.5, count) * rng.choice([-1, 1], count) / math.sqrt(13 / 12)  # its mean square is 1
        blocks["d"] = _halves(vary * std / spread)
        for field, sign in (("m", -1), ("dmin", 1)):  # one is added, the other subtracted
            if field in fields:
                blocks[field] = _halves(sign * centre * vary * std / spread)
    return blocks.view(np.uint8).reshape(*rows, -1)


def _centre_and_spread(layout: GroupedLayout) -> tuple[float, float]:
    """Of the weights of blocks whose scale is 1: the offset that takes their mean away, and their standard deviation
    with it. Without an offset the signs of the scales do that."""
    code, code_square = _moments(layout.codebook or range(layout.code_range[0], layout.code_range[1] + 1))
    scale, scale_square = _moments(GROUP_SCALES.get(layout.name, (1,)))
    if not layout.has_offsets:
        return 0.0, math.sqrt(scale_square * code_square)
    products = scale_square * code_square - (scale * code) ** 2
    offsets = code**2 * (scale_square - scale**2)
    return code, math.sqrt(products + offsets)


def _moments(numbers: Sequence[int]) -> tuple[float, float]:
    """Mean and mean square of numbers that are equally likely."""
    return sum(numbers) / len(numbers), sum(number**2 for number in numbers) / len(numbers)


def _exponents(scale: float, count: int, rng: np.random.Generator) -> NDArray[Any]:
    """MXFP4's exponents of the powers of two below and above `scale`, mixed so that its square is their mean square."""
    below = math.floor(math.log2(scale))
    share_above = (scale**2 / 4.0**below - 1) / 3
    return below + 128 + (rng.random(count) < share_above)


def _halves(values: NDArray[np.float64]) -> NDArray[np.float16]:
    with np.errstate(over="ignore"):
        halves = values.astype(np.float16)
    if not (np.isfinite(halves) & (halves != 0)).all():
        raise ValueError(f"Half precision does not reach to scales of {np.abs(values).mean():.1e}; change the spread.")
    return halves


def _floats(format_name: str, values: NDArray[np.float64]) -> NDArray[Any]:
    if format_name != "BF16":
        return values.astype({"F32": "<f4", "F16": "<f2"}[format_name])
    words = values.astype(np.float32).view(np.uint32)
    to_nearest = np.uint32(0x7FFF) + (words >> np.uint32(16) & np.uint32(1))  # ties to even
    return (words + to_nearest >> np.uint32(16)).astype("<u2")
