"""The slots of a runner: their KV memory, how much of it each uses, and the tables of sines that its positions need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from inference.errors import InsufficientMemoryError
from inference_rocm.building import ropes_of
from inference_rocm.cache import KVCache
from inference_rocm.decoder import Decoder
from inference_rocm.rotary import Rotary

__all__ = ["KVSlots"]

FIRST_LENGTH = 1024
"""Tokens that the first slot has room for, until a call wants more."""


class KVSlots:
    """Memory that grows as calls want more and longer slots."""

    def __init__(
        self,
        decoder: Decoder[Any],
        rope_factors: Sequence[float] | None,
        context_length: int,
        device: torch.device,
        require: Callable[[int, str], None] | None = None,
    ) -> None:
        """`require` is told how many bytes are about to be taken, and for what, and raises if they are not there."""
        self._decoder = decoder
        self._rope_factors = rope_factors
        self._device = device
        self._require = require
        self.lengths: dict[int, int] = {}
        """Tokens in the KV memory of each slot that was ever used."""
        length = min(context_length, FIRST_LENGTH)
        self.rotaries = self._tables(length)
        self.cache = KVCache(decoder.config, 1, length, decoder.kv_type, device)
        self.peak_bytes = self.cache.size_bytes

    @property
    def count(self) -> int:
        return self.cache.slots

    @property
    def length(self) -> int:
        """Tokens that each has room for."""
        return self.cache.length

    def resize(self, slots: int, length: int) -> None:
        """Make room for so many slots of so many tokens, at least.

        Raises:
            InsufficientMemoryError: everything is as before.
        """
        cache = self.cache
        slots, length = max(slots, cache.slots), max(length, cache.length)
        if (slots, length) == (cache.slots, cache.length):
            return
        wanted = f"{slots} slots of {length} tokens"
        if self._require is not None:
            longer = length > cache.length
            tables = sum(Rotary.size_of(rope, length) for rope in ropes_of(self._decoder.config)) if longer else 0
            self._require(cache.growth(slots, length) + tables, wanted)
        try:
            rotaries = self._tables(length) if length > cache.length else self.rotaries
            cache.resize(slots, length, self.lengths)
        except (RuntimeError, MemoryError) as error:
            raise InsufficientMemoryError(f"There is no KV memory for {wanted}: {error}") from error
        self.rotaries = rotaries
        self.peak_bytes = max(self.peak_bytes, cache.size_bytes)

    def trim(self, slot: int, length: int) -> int:
        """Forget what lies behind the first `length` tokens. Returns how many are left."""
        left = min(self.lengths.get(slot, 0), length)
        self.lengths[slot] = left
        return left

    def fork(self, source: int, slot: int, length: int) -> int:
        """Make a slot hold the first tokens of another. Returns how many it holds: `length`, or 0."""
        if self.lengths.get(source, 0) < length:
            return 0
        self.cache.copy(source, slot, length)
        self.lengths[slot] = length
        return length

    def _tables(self, length: int) -> list[Rotary]:
        return [Rotary(rope, self._rope_factors, length, self._device) for rope in ropes_of(self._decoder.config)]
