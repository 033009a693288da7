"""Formats that store each element by itself, as a floating-point number."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from inference.gguf.blocks.layout import BlockLayout, Blocks

__all__ = ["BF16", "F16", "F32"]


class F32(BlockLayout):
    """IEEE single precision."""

    fields = np.dtype([("value", "<f4")])
    bits = 32

    def _decode(self, blocks: Blocks, out: NDArray[np.float32]) -> None:
        np.copyto(out[:, 0], blocks["value"])


class F16(BlockLayout):
    """IEEE half precision."""

    fields = np.dtype([("value", "<f2")])
    bits = 16

    def _decode(self, blocks: Blocks, out: NDArray[np.float32]) -> None:
        np.copyto(out[:, 0], blocks["value"])


class BF16(BlockLayout):
    """The upper half of single precision."""

    fields = np.dtype([("value", "<u2")])
    bits = 16

    def _decode(self, blocks: Blocks, out: NDArray[np.float32]) -> None:
        words = out[:, 0].view(np.uint32)
        np.copyto(words, blocks["value"])
        words <<= np.uint32(16)
