"""What a step gave, for runners whose device computes while `step` runs."""

from __future__ import annotations

from array import array

from inference.protocols import TokenLogprobs

__all__ = ["NO_SAMPLE", "Results"]

NO_SAMPLE = -1
"""In the place of a token for rows that do not sample."""


class Results:
    """Implements `inference.protocols.Pending` for a step whose results are at hand; the runner fills its lists."""

    __slots__ = ("_logits", "_logprobs", "_scores", "_tokens")

    def __init__(self, rows: int) -> None:
        self._tokens = [NO_SAMPLE] * rows
        self._logprobs: list[TokenLogprobs | None] = [None] * rows
        self._scores: list[list[float] | None] = [None] * rows
        self._logits: list[array[float] | None] = [None] * rows

    def tokens(self) -> list[int]:
        return self._tokens

    def logprobs(self) -> list[TokenLogprobs | None]:
        return self._logprobs

    def scores(self) -> list[list[float] | None]:
        return self._scores

    def logits(self) -> list[array[float] | None]:
        return self._logits
