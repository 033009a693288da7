"""Who runs in the next step. Pure bookkeeping: no thread, no clock, no device."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice
from typing import Any

from inference.engine.prefix_cache import Place, PrefixCache, common_length
from inference.engine.request import Request
from inference.protocols import Row
from inference.stream import Channel

__all__ = ["Plan", "Scheduler"]

Plan = list[tuple[Request, Row]]
"""The rows of a step, each with the request that it serves."""

COPIED_AT_ONCE = 16384
"""Tokens of slots that may be copied before one step of running streams: some tens of milliseconds."""
FAR_ENOUGH = 256
"""How many of the waiting are looked at in one step, where those in front are passed over."""


class Scheduler:
    """First come, first served: requests wait for a slot, then their prompts are fed in chunks beside the others'
    decoding, then they decode together, one token each a step."""

    def __init__(self, slots: int, slot_length: int, batch_size: int, *, can_fork: bool = False) -> None:
        self.slots = slots
        self.slot_length = slot_length
        self._batch_size = batch_size
        self._can_fork = can_fork
        self._cache = PrefixCache(slots, can_fork=can_fork)
        self._waiting: OrderedDict[Channel[Any], Request] = OrderedDict()
        self._running: list[Request] = []

    def __bool__(self) -> bool:
        return bool(self._running or self._waiting)

    @property
    def running(self) -> list[Request]:
        """Requests that have a slot, the longest running first."""
        return self._running

    @property
    def waiting(self) -> int:
        """How many wait for a slot."""
        return len(self._waiting)

    def wanted(self) -> tuple[int, int]:
        """How many slots all requests together could use, and how many tokens the longest of those that wait needs."""
        longest = max((request.need for request in islice(self._waiting.values(), FAR_ENOUGH)), default=0)
        return len(self._running) + len(self._waiting), longest

    def __iter__(self) -> Iterator[Request]:
        """Every request that has not ended, running ones first."""
        yield from self._running
        yield from self._waiting.values()

    def add(self, request: Request) -> None:
        """Put a request in the queue."""
        self._waiting[request.channel] = request

    def find_waiting(self, channel: Channel[Any]) -> Request | None:
        """The request that waits with this channel."""
        return self._waiting.get(channel)

    def too_long(self) -> list[Request]:
        """Those waiting requests that no slot has room for."""
        return [request for request in self._waiting.values() if request.need > self.slot_length]

    def grow(self, slots: int, slot_length: int) -> None:
        """There are `slots` slots now, and those opened from now on have room for `slot_length` tokens."""
        self._cache.grow(self.slots, slots, slot_length)
        self.slots, self.slot_length = slots, slot_length

    def admit(self) -> Iterator[tuple[Request, Place]]:
        """Give free slots to those who waited longest. Each is running when it is given out, and whoever asks for the
        next has made its slot hold what the place says. While somebody decodes, copies are few: they take time.

        A request whose prompt begins as one that is being computed is passed over, once, until that is done.
        """
        if not self._waiting:
            return
        decoding = any(not request.remaining for request in self._running)
        copies = max(COPIED_AT_ONCE // self.slot_length, 1) if decoding else self.slots
        for request in list(islice(self._waiting.values(), FAR_ENOUGH)):
            if not self._cache:
                return
            if request.need > self.slot_length:
                continue  # until there is a longer one
            if request.deferred_for is not None and request.deferred_for.prefilling:
                continue
            place = self._cache.place(request, self._running)
            if self._can_fork and request.deferred_for is None:
                request.deferred_for = self._leader(request, max(place.kept, place.copied))
                if request.deferred_for is not None:
                    continue
            copies -= place.source >= 0
            if copies < 0:
                return
            self._cache.take(place)
            del self._waiting[request.channel]
            self._running.append(request)
            request.deferred_for = None
            request.slot = place.slot
            yield request, place

    def _leader(self, request: Request, at_hand: int) -> Request | None:
        """The running request that is about to compute much more of this one's prompt than is at hand."""
        for other in self._running:
            if other.prefilling and other.scope == request.scope:
                coming = common_length(request.tokens, other.tokens[: other.prompt_length])
                if coming - at_hand >= self._cache.worth_copying:
                    return other
        return None

    def remove(self, request: Request) -> None:
        """The request ended; its slot, if it had one, is free, and still holds what it held."""
        if request.slot < 0:
            del self._waiting[request.channel]
            return
        self._running.remove(request)
        self._cache.put_back(request.slot, request.scope, request.tokens[:0] if request.failed else request.held())

    def plan(self, prefill_room: int) -> Plan:
        """The rows of the next step, marked as launched: one token of every decoding sequence, then chunks of prompts,
        `prefill_room` tokens at most, as far as the batch has room.

        Of several prompts the oldest gets half of the room at least, so that none waits for ever; the shortest share
        the rest, so that a few words do not wait for a book.
        """
        plan: Plan = []
        prefilling = []
        for request in self._running:
            if request.remaining:
                prefilling.append(request)
            elif len(plan) < self._batch_size and (row := request.decode()) is not None:
                plan.append((request, row))
        room = min(prefill_room, self._batch_size - len(plan))
        if not prefilling or not room:
            return plan
        shares = _shares([request.remaining for request in prefilling], room)
        plan.extend(
            (request, request.prefill(share)) for request, share in zip(prefilling, shares, strict=True) if share
        )
        return plan


def _shares(remaining: list[int], room: int) -> list[int]:
    """How many tokens of each prompt are fed, oldest first."""
    shares = [0] * len(remaining)
    shares[0] = min(remaining[0], -(-room // 2))
    room -= shares[0]
    for index in sorted(range(1, len(remaining)), key=remaining.__getitem__):
        shares[index] = min(remaining[index], room)
        room -= shares[index]
    shares[0] += min(remaining[0] - shares[0], room)
    return shares
