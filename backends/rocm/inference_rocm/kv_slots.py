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
        self.peak_bytes = 0
        self._make(1, min(context_length, FIRST_LENGTH))

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
        before = self.cache
        slots, length = max(slots, before.slots), max(length, before.length)
        if (slots, length) == (before.slots, before.length):
            return
        self._make(slots, length)
        self.cache.take(before, self.lengths)

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

    def _make(self, slots: int, length: int) -> None:
        config, wanted = self._decoder.config, f"{slots} slots of {length} tokens"
        if self._require is not None:
            self._require(KVCache.size_of(config, slots, length, self._decoder.kv_type), wanted)
        try:
            cache = KVCache(config, slots, length, self._decoder.kv_type, self._device)
            rotaries = [Rotary(rope, self._rope_factors, length, self._device) for rope in ropes_of(config)]
        except (RuntimeError, MemoryError) as error:
            raise InsufficientMemoryError(f"There is no KV memory for {wanted}: {error}") from error
        self.cache, self.rotaries = cache, rotaries
        self.peak_bytes = max(self.peak_bytes, cache.size_bytes)
