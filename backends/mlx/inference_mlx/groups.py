"""Sequences whose KV memory lies together, so that one pass can advance all of them.

The memory is mlx-lm's: a cache of one sequence can be cut and copied, a batch's cannot, and a sequence that joins or
leaves a batch is copied. So sequences stay together as long as they are advanced together.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from typing import Any

from mlx_lm.models.cache import BatchRotatingKVCache, KVCache, RotatingKVCache, can_trim_prompt_cache

from inference_mlx.decoder import Caches

__all__ = ["NOBODY", "Group"]

NOBODY = -1
"""In the place of a slot: a row that nobody wants any more."""
_CUTTABLE = (KVCache, RotatingKVCache)
"""Others may say that they can be cut, and have forgotten what that would bring back (Llama 4's chunks)."""


class Group:
    """One or more sequences."""

    def __init__(self, slots: list[int], caches: Caches) -> None:
        """`caches` are those of one sequence for one slot, and a batch's for more."""
        self.slots = slots
        self.caches = caches

    @property
    def state(self) -> list[Any]:
        """What has to be evaluated before the memory that it was copied from can go."""
        return [cache.state for cache in self.caches]

    def straighten(self) -> None:
        """Put windows that have moved on in the order of their tokens. mlx-lm's batches do that themselves when several
        tokens come, but only after the mask was made for the order before."""
        for cache in self.caches:
            if isinstance(cache, BatchRotatingKVCache) and not cache.empty():
                cache._temporal_order()

    def forget(self, slot: int) -> None:
        """Nobody wants that slot's row any more."""
        self.slots[self.slots.index(slot)] = NOBODY

    def split(self, wanted: Collection[int]) -> list[Group]:
        """The group of the `wanted` slots, if any are in here, and then each other slot by itself."""
        stay = [row for row, slot in enumerate(self.slots) if slot in wanted]
        leave = [row for row, slot in enumerate(self.slots) if slot not in wanted and slot != NOBODY]
        left = [self._alone(row) for row in leave]
        if len(stay) == 1:
            return [self._alone(stay[0]), *left]
        if not stay:
            return left
        if len(stay) < len(self.slots):
            for cache in self.caches:
                cache.filter(stay)
        self.slots = [self.slots[row] for row in stay]
        return [self, *left]

    @staticmethod
    def joined(groups: Sequence[Group]) -> Group:
        """All sequences in one group."""
        if len(groups) == 1:
            return groups[0]
        alone = [group for group in groups if len(group.slots) == 1]
        batches = [group for group in groups if len(group.slots) > 1]
        if alone:
            merged = [caches[0].merge(list(caches)) for caches in zip(*(one.caches for one in alone), strict=True)]
            batches.append(Group([one.slots[0] for one in alone], merged))
        first, *others = batches
        for other in others:
            for cache, more in zip(first.caches, other.caches, strict=True):
                cache.extend(more)
            first.slots = first.slots + other.slots
        return first

    def copied(self, slot: int, of: int) -> Group:
        """A copy of the memory of slot `of`, for `slot`."""
        alone = self.caches if len(self.slots) == 1 else self._alone(self.slots.index(of)).caches
        return Group([slot], copy.deepcopy(alone))

    def cut(self, surplus: int) -> bool:
        """Forget the last `surplus` tokens of a sequence that is by itself. Returns whether its caches allow that: a
        window that has moved on has lost what it would need."""
        if not surplus:
            return True
        if not can_trim_prompt_cache(self.caches) or not all(type(cache) in _CUTTABLE for cache in self.caches):
            return False
        return all(cache.trim(surplus) == surplus for cache in self.caches)

    def _alone(self, row: int) -> Group:
        if len(self.slots) == 1:
            return self
        return Group([self.slots[row]], [cache.extract(row) for cache in self.caches])
