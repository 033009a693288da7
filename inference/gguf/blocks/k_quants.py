"""The K formats: 256 elements in groups of 16 or 32, whose scales are small whole numbers times the block's `d`.

Layouts: ggml-common.h, `block_q2_K` and so on. Values: ggml-quants.c, `dequantize_row_q2_K` and so on.
"""

# ruff: noqa: N801  (the classes have the formats' names)
from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.gguf.blocks.bits import as_bytes, six_bits, spread
from inference.gguf.blocks.groups import StoredScales
from inference.gguf.blocks.layout import Blocks, GroupedLayout

__all__ = ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]


class Q2_K(GroupedLayout):
    """Two bits. A group's scale and offset are four bits each, in one byte."""

    fields = np.dtype([("scales", "u1", (16,)), ("qs", "u1", (2, 32)), ("d", "<f2"), ("dmin", "<f2")])
    bits = 2
    group = 16
    code_range = (0, 3)
    has_offsets = True

    def _codes(self, blocks: Blocks) -> NDArray[np.int8]:
        return spread(blocks["qs"], 2).view(np.int8)

    def _stored(self, blocks: Blocks) -> StoredScales:
        both = blocks["scales"]
        return StoredScales(blocks["d"], blocks["dmin"], both & np.uint8(15), both >> np.uint8(4))


class Q3_K(GroupedLayout):
    """Two bits, with a third one in `hmask`, around 4. A group's scale is six bits, around 32."""

    fields = np.dtype([("hmask", "u1", (32,)), ("qs", "u1", (2, 32)), ("scales", "<u4", (3,)), ("d", "<f2")])
    bits = 3
    group = 16
    code_range = (-4, 3)

    def _codes(self, blocks: Blocks) -> NDArray[np.int8]:
        codes = spread(blocks["qs"], 2)
        codes |= spread(blocks["hmask"], 1, place=2).reshape(codes.shape)
        signed = codes.view(np.int8)
        signed -= np.int8(4)
        return signed

    def _stored(self, blocks: Blocks) -> StoredScales:
        first, second, high = blocks["scales"].T
        six = as_bytes(
            six_bits(first, 0, high, -4),
            six_bits(second, 0, high, -2),
            six_bits(first, 4, high, 0),
            six_bits(second, 4, high, 2),
        ).view(np.int8)
        six -= np.int8(32)
        return StoredScales(blocks["d"], steps=six)


class _EightGroups(GroupedLayout):
    """Eight groups, each with a scale and an offset of six bits: in all three words of four bytes."""

    group = 32
    has_offsets = True

    def _stored(self, blocks: Blocks) -> StoredScales:
        scales, minima, last = blocks["scales"].T
        return StoredScales(blocks["d"], blocks["dmin"], self._six(scales, last, 0), self._six(minima, last, 4))

    @staticmethod
    def _six(own: NDArray[Any], last: NDArray[Any], shift: int) -> NDArray[np.uint8]:
        """The first four are the lower bits of a word of their own; the two bits above them complete the last four,
        which lie in half bytes of the third word."""
        return as_bytes(own & np.uint32(0x3F3F3F3F), six_bits(last, shift, own, 2))


class Q4_K(_EightGroups):
    """Half bytes."""

    fields = np.dtype([("d", "<f2"), ("dmin", "<f2"), ("scales", "<u4", (3,)), ("qs", "u1", (4, 32))])
    bits = 4
    code_range = (0, 15)

    def _codes(self, blocks: Blocks) -> NDArray[np.int8]:
        return spread(blocks["qs"], 4).view(np.int8)


class Q5_K(_EightGroups):
    """Half bytes, with a fifth bit in `qh`."""

    fields = np.dtype(
        [("d", "<f2"), ("dmin", "<f2"), ("scales", "<u4", (3,)), ("qh", "u1", (32,)), ("qs", "u1", (4, 32))]
    )
    bits = 5
    code_range = (0, 31)

    def _codes(self, blocks: Blocks) -> NDArray[np.int8]:
        codes = spread(blocks["qs"], 4)
        codes |= spread(blocks["qh"], 1, place=4).reshape(codes.shape)
        return codes.view(np.int8)


class Q6_K(GroupedLayout):
    """Half bytes, with two more bits in `qh`, around 32. A group's scale is a byte."""

    fields = np.dtype([("ql", "u1", (2, 64)), ("qh", "u1", (2, 32)), ("scales", "i1", (16,)), ("d", "<f2")])
    bits = 6
    group = 16
    code_range = (-32, 31)

    def _codes(self, blocks: Blocks) -> NDArray[np.int8]:
        codes = spread(blocks["ql"], 4)
        codes |= spread(blocks["qh"], 2, place=4).reshape(codes.shape)
        signed = codes.view(np.int8)
        signed -= np.int8(32)
        return signed

    def _stored(self, blocks: Blocks) -> StoredScales:
        return StoredScales(blocks["d"], steps=blocks["scales"])
