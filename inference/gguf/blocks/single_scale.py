"""ggml's first formats: 32 elements and one scale, `d`, in half precision.

Layouts: ggml-common.h, `block_q4_0` and so on. Values: ggml-quants.c, `dequantize_row_q4_0` and so on.
"""

# ruff: noqa: N801  (the classes have the formats' names)
from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from inference.gguf.blocks.bits import spread
from inference.gguf.blocks.groups import StoredScales
from inference.gguf.blocks.layout import Blocks, GroupedLayout

__all__ = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]


class _SingleScale(GroupedLayout):
    """One scale; the offset, if there is one, is `m`, the block's least weight."""

    group = 32

    def _stored(self, blocks: Blocks) -> StoredScales:
        return StoredScales(blocks["d"], blocks["m"] if self.has_offsets else None)


class Q8_0(_SingleScale):
    """Bytes."""

    fields = np.dtype([("d", "<f2"), ("qs", "i1", (32,))])
    bits = 8
    code_range = (-128, 127)

    def _codes(self, blocks: Blocks) -> NDArray[np.int8]:
        codes: NDArray[np.int8] = blocks["qs"]
        return codes


class Q4_1(_SingleScale):
    """Half bytes, counted from the least weight."""

    fields = np.dtype([("d", "<f2"), ("m", "<f2"), ("qs", "u1", (16,))])
    bits = 4
    code_range = (0, 15)
    has_offsets = True

    def _codes(self, blocks: Blocks) -> NDArray[np.int8]:
        return spread(blocks["qs"], 4).view(np.int8)


class Q4_0(Q4_1):
    """Half bytes around 8."""

    fields = np.dtype([("d", "<f2"), ("qs", "u1", (16,))])
    code_range = (-8, 7)
    has_offsets = False

    def _codes(self, blocks: Blocks) -> NDArray[np.int8]:
        codes = super()._codes(blocks)
        codes -= np.int8(8)
        return codes


class Q5_1(_SingleScale):
    """Half bytes, whose fifth bits are the 32 bits of `qh`, counted from the least weight."""

    fields = np.dtype([("d", "<f2"), ("m", "<f2"), ("qh", "u1", (4,)), ("qs", "u1", (16,))])
    bits = 5
    code_range = (0, 31)
    has_offsets = True

    def _codes(self, blocks: Blocks) -> NDArray[np.int8]:
        codes = spread(blocks["qs"], 4)
        fifth = np.unpackbits(np.ascontiguousarray(blocks["qh"]), bitorder="little")
        fifth *= np.uint8(16)  # several times faster than the same shift
        codes |= fifth.reshape(codes.shape)
        return codes.view(np.int8)


class Q5_0(Q5_1):
    """The same around 16."""

    fields = np.dtype([("d", "<f2"), ("qh", "u1", (4,)), ("qs", "u1", (16,))])
    code_range = (-16, 15)
    has_offsets = False

    def _codes(self, blocks: Blocks) -> NDArray[np.int8]:
        codes = super()._codes(blocks)
        codes -= np.int8(16)
        return codes
