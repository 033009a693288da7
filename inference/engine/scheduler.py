"""Who runs in the next step. Pure bookkeeping: no thread, no clock, no device."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from inference.engine.sequence import Sequence
from inference.protocols import Row

__all__ = ["Scheduler"]


class Scheduler:
    """First come, first served: sequences wait for a slot, then their prompts are fed in chunks beside the others'
    decoding, then they decode together, one token each a step."""

    def __init__(self, slots: int, batch_size: int) -> None:
        self._batch_size = batch_size
        self._slots = slots
        self._free = list(range(slots))
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []

    def __bool__(self) -> bool:
        return bool(self._running or self._waiting)

    def __iter__(self) -> Iterator[Sequence]:
        """Every sequence that has not ended, running ones first."""
        yield from self._running
        yield from self._waiting

    @property
    def starved(self) -> bool:
        """Whether more sequences wait than slots are free."""
        return len(self._waiting) > len(self._free)

    def add(self, sequence: Sequence) -> None:
        """Put a sequence in the queue."""
        self._waiting.append(sequence)

    def grow(self, slots: int) -> None:
        """There are `slots` slots now."""
        self._free.extend(range(self._slots, slots))
        self._slots = slots

    def admit(self) -> list[Sequence]:
        """Give free slots to those who waited longest, lowest slot first; returns them."""
        admitted = []
        while self._waiting and self._free:
            slot = min(self._free)
            self._free.remove(slot)
            sequence = self._waiting.popleft()
            sequence.start(slot)
            self._running.append(sequence)
            admitted.append(sequence)
        return admitted

    def remove(self, sequence: Sequence) -> None:
        """The sequence ended; its slot, if it had one, is free."""
        if sequence.slot >= 0:
            self._running.remove(sequence)
            self._free.append(sequence.slot)
        else:
            self._waiting.remove(sequence)

    def plan(self) -> list[tuple[Sequence, Row]]:
        """The rows of the next step, marked as launched: one token of every decoding sequence, then chunks of prompts
        in order of arrival, as far as the batch has room."""
        plan: list[tuple[Sequence, Row]] = []
        room = self._batch_size
        prefilling = []
        for sequence in self._running:
            if sequence.fed < len(sequence.prompt):
                prefilling.append(sequence)
            elif sequence.launched < sequence.limit and room:
                sequence.launched += 1
                room -= 1
                plan.append((sequence, Row(sequence.slot)))
        for sequence in prefilling:
            if not room:
                break
            chunk = sequence.prompt[sequence.fed : sequence.fed + room]
            sequence.fed += len(chunk)
            room -= len(chunk)
            whole = sequence.fed == len(sequence.prompt)
            sequence.launched += whole
            plan.append((sequence, Row(sequence.slot, chunk, sample=whole)))
        return plan
