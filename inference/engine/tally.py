"""What all requests of an engine took together."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from inference.types import GenerateStats, ModelStats

__all__ = ["Tally"]


class Tally:
    """Sums over the requests that ended. The engine's thread adds; any thread may ask."""

    def __init__(self) -> None:
        self._sums = ModelStats()
        self.busy_seconds = 0.0
        self.lock = threading.Lock()
        """Held while a request leaves the running ones and is added: whoever looks at both sees it once."""

    @property
    def ended(self) -> int:
        """How many requests have ended."""
        return self._sums.calls

    def add(self, took: GenerateStats) -> None:
        """A request ended."""
        self._sums = _sum(self._sums, took, calls=1, last=took)

    def stats(self, running: Iterable[GenerateStats], waiting: int) -> ModelStats:
        """The sums, with what those that run have taken until now."""
        sums, count = self._sums, 0
        for took in running:
            sums = _sum(sums, took, calls=0, last=sums.last)
            count += 1
        return ModelStats(
            **{name: getattr(sums, name) for name in ("calls", "decoded_tokens", *_SUMMED)},
            running=count,
            waiting=waiting,
            busy_seconds=self.busy_seconds,
            last=sums.last,
        )


_SUMMED = (
    "prompt_tokens",
    "cached_tokens",
    "computed_tokens",
    "generated_tokens",
    "queue_seconds",
    "prefill_seconds",
    "decode_seconds",
    "total_seconds",
)


def _sum(sums: ModelStats, took: GenerateStats, *, calls: int, last: GenerateStats | None) -> ModelStats:
    return ModelStats(
        **{name: getattr(sums, name) + getattr(took, name) for name in _SUMMED},
        calls=sums.calls + calls,
        decoded_tokens=sums.decoded_tokens + max(took.generated_tokens - 1, 0),
        last=last,
    )
