"""The block formats that are decoded here, in numpy: all that a device backend needs to pack the weights its own way,
and the reference for its kernels.

`inference.gguf.block_formats` knows the names and the sizes of all of ggml's formats, without numpy.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from inference.gguf.blocks.codebooks import IQ4_NL, IQ4_XS, MXFP4
from inference.gguf.blocks.groups import Groups, StoredScales
from inference.gguf.blocks.k_quants import Q2_K, Q3_K, Q4_K, Q5_K, Q6_K
from inference.gguf.blocks.layout import BlockLayout, GroupedLayout
from inference.gguf.blocks.plain import BF16, F16, F32
from inference.gguf.blocks.single_scale import Q4_0, Q4_1, Q5_0, Q5_1, Q8_0

__all__ = ["BLOCK_LAYOUTS", "BlockLayout", "GroupedLayout", "Groups", "StoredScales", "block_layout", "decode"]

_PLAIN: tuple[type[BlockLayout], ...] = (F32, F16, BF16)
_SINGLE_SCALE: tuple[type[BlockLayout], ...] = (Q8_0, Q4_0, Q4_1, Q5_0, Q5_1)
_K_QUANTS: tuple[type[BlockLayout], ...] = (Q2_K, Q3_K, Q4_K, Q5_K, Q6_K)
_CODEBOOKS: tuple[type[BlockLayout], ...] = (IQ4_NL, IQ4_XS, MXFP4)

BLOCK_LAYOUTS: Mapping[str, BlockLayout] = MappingProxyType(
    {layout.name: layout() for layout in (*_PLAIN, *_SINGLE_SCALE, *_K_QUANTS, *_CODEBOOKS)}
)
"""By ggml's name."""


def block_layout(name: str) -> BlockLayout:
    """The layout of the format that ggml calls `name` ("Q4_K").

    Raises:
        KeyError: it is none of `BLOCK_LAYOUTS`.
    """
    return BLOCK_LAYOUTS[name]


def decode(name: str, data: NDArray[np.uint8], out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """The weights in `data`, uint8 [..., row bytes] of the format `name`: float32 [..., elements].

    `out` is filled instead of a new array: C-contiguous, of that shape and type.

    Raises:
        KeyError: the format is none of `BLOCK_LAYOUTS`.
        ValueError: the rows do not consist of whole blocks, or `out` is another array than that.
    """
    return block_layout(name).decode(data, out)
