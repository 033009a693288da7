"""KV memory: a fixed place for every slot, layer and position."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

import torch
from torch import Tensor

from inference.gguf.architectures import Config

__all__ = ["KVCache"]


class KVCache:
    """Keys and values of all slots. It knows places, not tokens: who uses it says which positions are valid.

    Keys of a layer are one tensor and its values another, so that growing needs beside the new memory that of one layer
    alone, and so that each stays below 2 GiB for long, where a GPU's loads take offsets of 32 bits.
    """

    def __init__(self, config: Config, slots: int, length: int, dtype: torch.dtype, device: torch.device) -> None:
        self._heads = config.kv_heads
        self._head_length = config.head_length
        self._dtype = dtype
        self._device = device
        self._parts = [self._part(slots, length) for _ in range(2 * len(config.layers))]
        """Keys of the first layer, its values, keys of the second, and so on."""

    @property
    def slots(self) -> int:
        return min(part.shape[0] for part in self._parts)

    @property
    def length(self) -> int:
        """Positions of each slot."""
        return min(part.shape[2] for part in self._parts)

    @property
    def size_bytes(self) -> int:
        return sum(part.nbytes for part in self._parts)

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """Keys and values of one layer, each [slots, kv_heads, length, head_length], contiguous."""
        return self._parts[2 * index], self._parts[2 * index + 1]

    def copy(self, source: int, slot: int, length: int) -> None:
        """Make a slot hold the first `length` positions of another."""
        for part in self._parts:
            part[slot, :, :length] = part[source, :, :length]

    def growth(self, slots: int, length: int) -> int:
        """Bytes that must be free for a `resize`."""
        part = slots * self._heads * length * self._head_length * self._dtype.itemsize
        return len(self._parts) * part - self.size_bytes + sum(part.nbytes for part in self.layer(0))

    def resize(self, slots: int, length: int, used: Mapping[int, int]) -> None:
        """Have so many slots of so many positions, which keep the first of theirs, as many of each as `used` says.

        Raises:
            RuntimeError, MemoryError: PyTorch's, where memory ran out; the sizes are as before.
        """
        before = self.slots, self.length
        try:
            self._fit(slots, length, used)
        except (RuntimeError, MemoryError):
            with suppress(RuntimeError, MemoryError):  # layers that cannot give back what they got may be larger
                self._fit(*before, used)
            raise

    def _fit(self, slots: int, length: int, used: Mapping[int, int]) -> None:
        for index in range(0, len(self._parts), 2):  # nothing else may hold a layer: it is freed before the next grows
            layer = slice(index, index + 2)
            self._parts[layer] = [self._resized(part, slots, length, used) for part in self._parts[layer]]

    def _resized(self, part: Tensor, slots: int, length: int, used: Mapping[int, int]) -> Tensor:
        if (part.shape[0], part.shape[2]) == (slots, length):
            return part
        new = self._part(slots, length)
        for slot, count in used.items():
            new[slot, :, :count] = part[slot, :, :count]
        return new

    def _part(self, slots: int, length: int) -> Tensor:
        # Zeros, for attention multiplies what lies beyond a slot's end by 0. On a CPU, pages that no position was
        # written to take no memory.
        shape = (slots, self._heads, length, self._head_length)
        return torch.zeros(shape, dtype=self._dtype, device=self._device)
