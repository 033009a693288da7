"""What the block formats share: finding the blocks in bytes, and going through them in pieces that fit the cache."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from inference.gguf.block_formats import block_format
from inference.gguf.blocks.groups import Groups, StoredScales, output

__all__ = ["BlockLayout", "Blocks", "GroupedLayout"]

PIECE = 1 << 16
"""Elements that are decoded at a time: values and codes take 320 KiB, which a core's second cache holds."""

Blocks: TypeAlias = NDArray[np.void]
"""[n] blocks with the fields of their layout."""


class BlockLayout(ABC):
    """How a block format lays its elements out. The class has ggml's name for it, and ggml's names for its fields."""

    name: ClassVar[str]
    elements: ClassVar[int]
    """Elements of a block."""
    fields: ClassVar[np.dtype[np.void]]
    """A block as numpy reads it; `fields.itemsize` is its size in bytes."""
    bits: ClassVar[int]
    """What each element has for itself."""

    def __init_subclass__(cls) -> None:
        if "fields" in cls.__dict__:
            form = block_format(cls.__name__)
            cls.name, cls.elements = form.name, form.elements

    def decode(self, data: NDArray[np.uint8], out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """The weights in `data`, uint8 [..., row bytes]: float32 [..., elements].

        `out` is filled instead of a new array: C-contiguous, of that shape and type.

        Raises:
            ValueError: the rows do not consist of whole blocks, or `out` is another array than that.
        """
        values = output((*data.shape[:-1], self._row_elements(data)), out)
        blocks, flat = self._blocks(data), values.reshape(-1, self.elements)
        with np.errstate(over="ignore", invalid="ignore"):  # damaged scales give inf and NaN, as they do in llama.cpp
            for piece in self._pieces(len(blocks)):
                self._decode(blocks[piece], flat[piece])
        return values

    @abstractmethod
    def _decode(self, blocks: Blocks, out: NDArray[np.float32]) -> None:
        """Decode into [n, elements]."""

    def _row_elements(self, data: NDArray[np.uint8]) -> int:
        size = self.fields.itemsize
        if data.dtype != np.uint8 or not data.ndim or data.shape[-1] % size:
            raise ValueError(
                f"{self.name} blocks come as uint8 in rows of a multiple of {size}, not as {data.dtype} {data.shape}."
            )
        return int(data.shape[-1]) // size * self.elements

    def _blocks(self, data: NDArray[np.uint8]) -> Blocks:
        """All blocks, row after row: a view where `data` is C-contiguous."""
        return np.ascontiguousarray(data).reshape(-1).view(self.fields)

    def _pieces(self, blocks: int) -> Iterator[slice]:
        step = PIECE // self.elements
        return (slice(begin, begin + step) for begin in range(0, blocks, step))


class GroupedLayout(BlockLayout):
    """The layout of a quantised format: value = scale x code + offset. See `Groups`."""

    group: ClassVar[int]
    """Elements that share a scale."""
    code_range: ClassVar[tuple[int, int]]
    """The least and the greatest code."""
    codebook: ClassVar[tuple[int, ...] | None] = None
    """The codes in the order of the numbers that are stored for them; None where stored numbers just count up through
    `code_range`, which is so in most formats."""
    has_offsets: ClassVar[bool] = False

    def unpack(self, data: NDArray[np.uint8]) -> Groups:
        """The weights in `data`, uint8 [..., row bytes], not yet decoded: codes [..., elements].

        Raises:
            ValueError: the rows do not consist of whole blocks.
        """
        elements, blocks = self._row_elements(data), self._blocks(data)
        shape = (len(blocks), self.elements // self.group)
        codes, scales = np.empty((len(blocks), self.elements), np.int8), np.empty(shape, np.float32)
        offsets = np.empty(shape, np.float32) if self.has_offsets else None
        with np.errstate(over="ignore", invalid="ignore"):
            for piece in self._pieces(len(blocks)):
                part = self._unpack(blocks[piece])
                codes[piece], scales[piece] = part.codes, part.scales
                if offsets is not None:
                    offsets[piece] = part.offsets
        rows, groups = data.shape[:-1], elements // self.group
        if offsets is not None:
            offsets = offsets.reshape(*rows, groups)
        return Groups(codes.reshape(*rows, elements), scales.reshape(*rows, groups), offsets, self.group)

    def _decode(self, blocks: Blocks, out: NDArray[np.float32]) -> None:
        self._unpack(blocks).decode(out)

    def _unpack(self, blocks: Blocks) -> Groups:
        """A piece: codes [n, elements], scales and offsets [n, elements / group]."""
        return Groups(self._codes(blocks).reshape(-1, self.elements), *self._stored(blocks).decoded(), self.group)

    @abstractmethod
    def _codes(self, blocks: Blocks) -> NDArray[np.int8]:
        """Codes in the order of their elements, in any shape that has the blocks first."""

    def numbers(self) -> NDArray[np.uint8]:
        """The number that is stored for each code, where codes are taken as bytes: [256]."""
        if self.codebook is None:
            return (np.arange(256) - self.code_range[0]).astype(np.uint8)
        numbers = np.zeros(256, np.uint8)
        for number, code in reversed([*enumerate(self.codebook)]):
            numbers[code] = number
        return numbers

    def stored_scales(self, data: NDArray[np.uint8]) -> StoredScales:
        """The scales in `data`, uint8 [..., row bytes], as they are stored.

        Raises:
            ValueError: the rows do not consist of whole blocks.
        """
        blocks, outer = self._row_elements(data) // self.elements, data.shape[:-1]
        groups = blocks * (self.elements // self.group)
        stored = self._stored(self._blocks(data))
        return StoredScales(
            None if stored.factors is None else stored.factors.reshape(*outer, blocks),
            None if stored.offset_factors is None else stored.offset_factors.reshape(*outer, blocks),
            None if stored.steps is None else stored.steps.reshape(*outer, groups),
            None if stored.offset_steps is None else stored.offset_steps.reshape(*outer, groups),
        )

    @abstractmethod
    def _stored(self, blocks: Blocks) -> StoredScales:
        """Factors [n], steps [n, groups]."""
