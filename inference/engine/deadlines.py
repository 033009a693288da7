"""Which requests have run out of time, however many wait."""

from __future__ import annotations

import heapq
from itertools import count

from inference.engine.request import Request

__all__ = ["Deadlines"]

FEW = 64
"""Entries that are kept without looking whether they are of use."""


class Deadlines:
    """Requests with a `timeout`, the next to end on top."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Request]] = []
        self._most = FEW
        self._numbers = count()  # of two equal deadlines: requests cannot be compared

    def add(self, request: Request) -> None:
        """Watch a request, if it has a deadline."""
        if request.deadline is None:
            return
        if len(self._heap) >= self._most:  # most calls end long before their time: forget those
            self._heap = [entry for entry in self._heap if not entry[2].finished]
            heapq.heapify(self._heap)
            self._most = max(FEW, 2 * len(self._heap))
        heapq.heappush(self._heap, (request.deadline, next(self._numbers), request))

    def passed(self, now: float) -> list[Request]:
        """Those whose time is up and that have not ended otherwise; each is told once."""
        late = []
        while self._heap and (self._heap[0][2].finished or self._heap[0][0] <= now):
            request = heapq.heappop(self._heap)[2]
            if not request.finished:
                late.append(request)
        return late
