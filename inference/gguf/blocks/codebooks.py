"""Formats of four bits, whose numbers stand for the entries of a table.

Layouts and tables: ggml-common.h, `block_iq4_nl`, `kvalues_iq4nl` and so on. Values: ggml-quants.c,
`dequantize_row_iq4_nl` and so on.
"""

# ruff: noqa: N801  (the classes have the formats' names)
from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from inference.gguf.blocks.bits import spread
from inference.gguf.blocks.groups import StoredScales
from inference.gguf.blocks.layout import Blocks, GroupedLayout

__all__ = ["IQ4_NL", "IQ4_XS", "MXFP4"]


class _Codebook(GroupedLayout):
    bits = 4
    group = 32
    codebook: ClassVar[tuple[int, ...]]
    _translation: ClassVar[bytes]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.code_range = (min(cls.codebook), max(cls.codebook))
        cls._translation = np.array(cls.codebook, np.int8).tobytes().ljust(256, b"\x00")

    def _codes(self, blocks: Blocks) -> NDArray[np.int8]:
        numbers = spread(blocks["qs"], 4).tobytes()
        return np.frombuffer(numbers.translate(self._translation), np.int8)  # twice as fast as numpy's `take`


class IQ4_NL(_Codebook):
    """32 elements; the table is denser around 0."""

    fields = np.dtype([("d", "<f2"), ("qs", "u1", (16,))])
    codebook = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)

    def _stored(self, blocks: Blocks) -> StoredScales:
        return StoredScales(blocks["d"])


class IQ4_XS(_Codebook):
    """256 elements with the same table. A group's scale is six bits, around 32."""

    fields = np.dtype([("d", "<f2"), ("scales_h", "<u2"), ("scales_l", "u1", (4,)), ("qs", "u1", (8, 16))])
    codebook = IQ4_NL.codebook

    def _stored(self, blocks: Blocks) -> StoredScales:
        low = blocks["scales_l"][:, :, None] >> np.array([0, 4], np.uint8) & np.uint8(0x0F)
        high = blocks["scales_h"][:, None] >> np.arange(0, 16, 2, dtype=np.uint16) & np.uint16(0x03)
        six = (low.reshape(-1, 8) | high.astype(np.uint8) << np.uint8(4)).view(np.int8) - np.int8(32)
        return StoredScales(blocks["d"], steps=six)


class MXFP4(_Codebook):
    """32 elements of the OCP microscaling format: E2M1 numbers, and a power of two as their scale. The table has twice
    the numbers, so that they are whole, and the scale is halved."""

    fields = np.dtype([("e", "u1"), ("qs", "u1", (16,))])
    codebook = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)

    def _stored(self, blocks: Blocks) -> StoredScales:
        return StoredScales(None, steps=blocks["e"][:, None])
