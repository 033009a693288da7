"""KV memory: a fixed place for every slot, layer and position."""

from __future__ import annotations

import torch
from torch import Tensor

from inference.gguf.architectures import Config

__all__ = ["KVCache"]


class KVCache:
    """Keys and values of all slots. It knows places, not tokens: who uses it says which positions are valid."""

    def __init__(self, config: Config, slots: int, length: int, dtype: torch.dtype, device: torch.device) -> None:
        # Zeros, for attention multiplies what lies beyond a slot's end by 0. On a CPU, pages that no position was
        # written to take no memory.
        shape = (2, len(config.layers), slots, config.kv_heads, length, config.head_length)
        self._memory = torch.zeros(shape, dtype=dtype, device=device)
        self._layers = [(self._memory[0, index], self._memory[1, index]) for index in range(len(config.layers))]

    @staticmethod
    def size_of(config: Config, slots: int, length: int, dtype: torch.dtype) -> int:
        """Bytes that such a memory takes."""
        return 2 * len(config.layers) * slots * config.kv_heads * length * config.head_length * dtype.itemsize

    @property
    def slots(self) -> int:
        return self._memory.shape[2]

    @property
    def length(self) -> int:
        """Positions of each slot."""
        return self._memory.shape[4]

    @property
    def size_bytes(self) -> int:
        return self._memory.nbytes

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """Keys and values of one layer, each [slots, kv_heads, length, head_length]: views."""
        return self._layers[index]

    def copy(self, source: int, slot: int, length: int) -> None:
        """Make a slot hold the first `length` positions of another."""
        self._memory[:, :, slot, :, :length] = self._memory[:, :, source, :, :length]

    def take(self, other: KVCache, lengths: dict[int, int]) -> None:
        """Take over the first positions of another cache's slots, as many of each as `lengths` says."""
        for slot, length in lengths.items():
            self._memory[:, :, slot, :, :length] = other._memory[:, :, slot, :, :length]
