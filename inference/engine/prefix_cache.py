"""What the slots hold, so that a prompt which begins like an earlier one is not computed again."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass

from inference.engine.request import Request

__all__ = ["Place", "PrefixCache", "common_length"]

Tokens = array  # of ids, type code "i"

WORTH_CHOOSING = 16
"""A match of fewer tokens (BOS, a template's first words) is no reason to overwrite what another call may want."""
WORTH_COPYING = 32
"""A copy of a slot takes as long as computing some tens of tokens."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a request goes, and what of its prompt can be had there."""

    slot: int
    kept: int
    """Tokens that the slot itself holds."""
    source: int = -1
    """If not -1: another slot, which holds `copied` tokens of it."""
    copied: int = 0


@dataclass(frozen=True, slots=True)
class _Held:
    scope: str | None
    tokens: array[int]


_NOTHING = _Held(None, array("i"))


class PrefixCache:
    """The free slots and what each still holds. As many prefixes as slots: the least recently used one goes first.

    Only requests of the same scope share anything.
    """

    def __init__(self, slots: int) -> None:
        self._free: dict[int, _Held] = dict.fromkeys(range(slots), _NOTHING)  # least recently used first

    def __len__(self) -> int:
        """How many slots are free."""
        return len(self._free)

    def grow(self, before: int, slots: int) -> None:
        """There are `slots` slots now, where there were `before`."""
        self._free = dict.fromkeys(range(before, slots), _NOTHING) | self._free

    def put_back(self, slot: int, scope: str | None, tokens: array[int]) -> None:
        """A slot is free again, and holds these tokens."""
        self._free[slot] = _Held(scope, tokens)

    def take(self, place: Place) -> None:
        """The slot is in use."""
        del self._free[place.slot]

    def place(self, request: Request, running: Iterable[Request]) -> Place:
        """The best free slot for a request: the one that holds the longest beginning of its prompt, else an empty one,
        the lowest, else the least recently used. What a running request holds may be copied."""
        wanted = request.tokens[: request.prompt_length - 1]  # the last token is computed: its logits are wanted
        slot, kept = -1, 0
        for candidate, held in self._free.items():
            if held.tokens and held.scope == request.scope:
                length = common_length(wanted, held.tokens)
                if length > kept or (length == kept > 0 and candidate < slot):
                    slot, kept = candidate, length
        if kept < min(WORTH_CHOOSING, len(wanted)) or slot < 0:
            slot, kept = self._least_missed(), 0
            held = self._free[slot]
            if held.scope == request.scope:
                kept = common_length(wanted, held.tokens)
        best, source = kept, -1
        for other in running:
            if other.scope == request.scope and other.slot != slot:
                length = common_length(wanted, other.held())
                if length > best:
                    best, source = length, other.slot
        if best - kept < WORTH_COPYING:
            return Place(slot, kept)
        return Place(slot, kept, source, best)

    def _least_missed(self) -> int:
        empty = [slot for slot, held in self._free.items() if not held.tokens]
        return min(empty) if empty else next(iter(self._free))


def common_length(a: array[int], b: array[int]) -> int:
    """How many items `a` and `b` have in common from the start. Halves slices, which compare as fast as memory."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low
