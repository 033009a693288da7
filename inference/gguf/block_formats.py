"""The block formats of ggml: how many weights share a block, and the bytes that it takes.

Ids and sizes are those of `enum ggml_type` and of the `block_*` structs in ggml (ggml.h, ggml-common.h).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["BLOCK_FORMATS", "DECODED", "REMOVED_FORMATS", "BlockFormat", "block_format"]


@dataclass(frozen=True, slots=True)
class BlockFormat:
    """How a tensor's elements are stored: in blocks of `elements`, each `size_bytes` long."""

    id: int
    name: str
    elements: int
    size_bytes: int

    def bytes_for(self, elements: int) -> int:
        """Bytes that `elements` elements take; a block that is not full counts whole."""
        return -(-elements // self.elements) * self.size_bytes


_ALL = (
    BlockFormat(0, "F32", 1, 4),
    BlockFormat(1, "F16", 1, 2),
    BlockFormat(2, "Q4_0", 32, 18),
    BlockFormat(3, "Q4_1", 32, 20),
    BlockFormat(6, "Q5_0", 32, 22),
    BlockFormat(7, "Q5_1", 32, 24),
    BlockFormat(8, "Q8_0", 32, 34),
    BlockFormat(9, "Q8_1", 32, 36),
    BlockFormat(10, "Q2_K", 256, 84),
    BlockFormat(11, "Q3_K", 256, 110),
    BlockFormat(12, "Q4_K", 256, 144),
    BlockFormat(13, "Q5_K", 256, 176),
    BlockFormat(14, "Q6_K", 256, 210),
    BlockFormat(15, "Q8_K", 256, 292),
    BlockFormat(16, "IQ2_XXS", 256, 66),
    BlockFormat(17, "IQ2_XS", 256, 74),
    BlockFormat(18, "IQ3_XXS", 256, 98),
    BlockFormat(19, "IQ1_S", 256, 50),
    BlockFormat(20, "IQ4_NL", 32, 18),
    BlockFormat(21, "IQ3_S", 256, 110),
    BlockFormat(22, "IQ2_S", 256, 82),
    BlockFormat(23, "IQ4_XS", 256, 136),
    BlockFormat(24, "I8", 1, 1),
    BlockFormat(25, "I16", 1, 2),
    BlockFormat(26, "I32", 1, 4),
    BlockFormat(27, "I64", 1, 8),
    BlockFormat(28, "F64", 1, 8),
    BlockFormat(29, "IQ1_M", 256, 56),
    BlockFormat(30, "BF16", 1, 2),
    BlockFormat(34, "TQ1_0", 256, 54),
    BlockFormat(35, "TQ2_0", 256, 66),
    BlockFormat(39, "MXFP4", 32, 17),
    BlockFormat(40, "NVFP4", 64, 36),
    BlockFormat(41, "Q1_0", 128, 18),
    BlockFormat(42, "Q2_0", 64, 18),
)

BLOCK_FORMATS: Mapping[int, BlockFormat] = MappingProxyType({form.id: form for form in _ALL})
"""Every format that a GGUF file may hold today, by ggml's id."""

REMOVED_FORMATS: Mapping[int, str] = MappingProxyType(
    {
        4: "Q4_2",
        5: "Q4_3",
        31: "Q4_0_4_4",
        32: "Q4_0_4_8",
        33: "Q4_0_8_8",
        36: "IQ4_NL_4_4",
        37: "IQ4_NL_4_8",
        38: "IQ4_NL_8_8",
    }
)
"""Ids that ggml once gave and took back."""

DECODED = (
    *("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"),
    *("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4"),
)
"""Those that `inference.gguf.blocks` decodes, which needs numpy."""

_BY_NAME = {form.name: form for form in _ALL}


def block_format(name: str) -> BlockFormat:
    """The format that ggml calls `name` ("Q4_K", "q8_0"; case does not matter).

    Raises:
        KeyError: ggml has no such format.
    """
    return _BY_NAME[name.upper()]
