"""What the slots hold, so that a prompt which begins like an earlier one is not computed again."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass

from inference.engine.request import Request

__all__ = ["Place", "PrefixCache", "common_length"]

Tokens = array  # of ids, type code "i"

WORTH_KEEPING = 16
"""A match of fewer tokens (BOS, a template's first words) is no reason to choose a slot."""
WORTH_COPYING = 32
"""Copying a slot takes as long as computing some tens of tokens. So a slot that would lose fewer is used in place."""
COPIED_WHOLE = 256
"""A copy may be one of all memory that a slot has: of long slots it is worth a token in so many."""


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

    def __init__(self, slots: int, *, can_fork: bool = False) -> None:
        self._can_fork = can_fork
        self.worth_copying = WORTH_COPYING
        """Tokens that a copy must save."""
        self._free: dict[int, _Held] = dict.fromkeys(range(slots), _NOTHING)  # least recently used first

    def __len__(self) -> int:
        """How many slots are free."""
        return len(self._free)

    def grow(self, before: int, slots: int, length: int) -> None:
        """There are `slots` slots of `length` tokens now, where there were `before`."""
        self._free = dict.fromkeys(range(before, slots), _NOTHING) | self._free
        self.worth_copying = max(WORTH_COPYING, length // COPIED_WHOLE)

    def put_back(self, slot: int, scope: str | None, tokens: array[int]) -> None:
        """A slot is free again, and holds these tokens."""
        self._free[slot] = _Held(scope, tokens)

    def take(self, place: Place) -> None:
        """The place is in use."""
        del self._free[place.slot]
        if place.source in self._free:
            self._free[place.source] = self._free.pop(place.source)  # used just now

    def place(self, request: Request, running: Iterable[Request]) -> Place:
        """The best free slot for a request, and what of its prompt can be had there.

        That is the slot that holds the longest beginning of the prompt, unless much else in it would be lost: then an
        empty one, the lowest, or the least recently used, and the beginning is copied to it. What a running request
        holds can be copied too.
        """
        wanted = request.tokens[: request.prompt_length - 1]  # the last token is computed: its logits are wanted
        matches = {slot: _match(wanted, request.scope, held) for slot, held in self._free.items()}
        best = max(matches, key=lambda slot: (matches[slot], -slot))
        lost = len(self._free[best].tokens) - matches[best]
        useful = matches[best] >= min(WORTH_KEEPING, len(wanted)) > 0
        slot = best if useful and lost < WORTH_COPYING else self._least_missed()
        if not self._can_fork:
            return Place(slot, matches[slot])
        sources = matches | {
            other.slot: common_length(wanted, other.held()) for other in running if other.scope == request.scope
        }
        source = max(sources, key=sources.__getitem__)
        if sources[source] - matches[slot] < self.worth_copying:
            return Place(slot, matches[slot])
        return Place(slot, matches[slot], source, sources[source])

    def _least_missed(self) -> int:
        empty = [slot for slot, held in self._free.items() if not held.tokens]
        return min(empty) if empty else next(iter(self._free))


def _match(wanted: array[int], scope: str | None, held: _Held) -> int:
    return common_length(wanted, held.tokens) if held.tokens and held.scope == scope else 0


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
