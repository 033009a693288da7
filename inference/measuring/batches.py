"""Many sequences that decode together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from time import perf_counter
from typing import ClassVar

from inference.measuring.case import Repeat, Sample
from inference.measuring.competitor import (
    GREEDY,
    Batches,
    BatchSession,
    Competitor,
    Passes,
    SelfTimed,
    Session,
)
from inference.measuring.on_model import STORY, OnModel, digest, loaded, rotated

__all__ = ["Arrivals", "BatchDecode"]


@dataclass(frozen=True, slots=True)
class BatchDecode(OnModel):
    """Tokens per second of all sequences while all of them decode: from when the last has its first token until the
    first ends. Beside, what it costs to get there and away: the rate until the end of all, when fewer and fewer are
    left, and that of the whole call, prefill included.

    Prompts have mixed lengths, as a server's have, and no common beginning. A competitor that takes one prompt at a
    time is given the first few, one after the other; its rate is that of its decoding alone, prefill left out.
    """

    sequences: int = 32
    tokens: int = 64
    shortest: int = 4
    longest: int = 12
    """Tokens of the shortest and of the longest prompt; the others lie evenly between."""
    alone: int = 4
    """Prompts for a competitor that takes one at a time."""
    unit: ClassVar[str] = "tokens/s"

    @property
    def name(self) -> str:
        return f"decode {self.sequences} together"

    @property
    def passes(self) -> Passes:
        return Passes(prompt=self.longest, tokens=self.tokens, sequences=self.sequences)

    def reason_unsuited(self, competitor: Competitor) -> str | None:
        return None if isinstance(competitor, Batches) else OnModel.reason_unsuited(self, competitor)

    @contextmanager
    def prepared(self, competitor: Competitor) -> Iterator[Repeat]:
        if isinstance(competitor, SelfTimed):
            yield self.timed_by_itself(competitor)
        elif isinstance(competitor, Batches):
            settings = replace(self.settings, parallel=self.sequences)
            with closing(competitor.load_batches(self.model, settings)) as batches:
                yield lambda _: self._together(batches)
        else:
            with loaded(competitor, self.model, replace(self.settings, parallel=1)) as session:
                yield lambda _: self._one_by_one(session)

    def prompts(self, session: Session) -> list[list[int]]:
        """The prompts, in token ids."""
        text = session.encode(STORY * (self.longest // 64 + 1))
        steps = max(1, self.sequences - 1)
        lengths = [
            # The order is mixed too: a step of 7 meets all of 32, or of any number that 7 does not divide.
            self.shortest + (self.longest - self.shortest) * (7 * number % self.sequences) // steps
            for number in range(self.sequences)
        ]
        return [rotated(text, number, length) for number, length in enumerate(lengths)]

    def _together(self, session: BatchSession) -> Sample:
        prompts = self.prompts(session)
        arrivals = Arrivals(len(prompts))
        began = perf_counter()
        for index in session.batch(prompts, self.tokens):
            arrivals.add(index, perf_counter())
        arrivals.require(self.tokens)
        whole = len(prompts) * self.tokens / (arrivals.last - began)
        beside = {"until the end, tokens/s": arrivals.rate(to_the_end=True), "whole call, tokens/s": whole}
        return Sample(arrivals.rate(), self._work(prompts), beside)

    def _one_by_one(self, session: Session) -> Sample:
        prompts = self.prompts(session)
        seconds = 0.0
        for prompt in prompts[: self.alone]:
            times = [perf_counter() for _ in session.stream(prompt, self.tokens, GREEDY)]
            seconds += times[-1] - times[0]
        return Sample(len(prompts[: self.alone]) * (self.tokens - 1) / seconds, self._work(prompts))

    def _work(self, prompts: Sequence[Sequence[int]]) -> str:
        joined = [token for prompt in prompts for token in prompt]
        return f"{len(prompts)} prompts, {digest(joined)}, {self.tokens} tokens each"


class Arrivals:
    """When the tokens of sequences that run together arrived. Those of one step arrive in one burst."""

    def __init__(self, sequences: int) -> None:
        self._order: list[int] = []
        self._times: list[float] = []
        self._of: list[list[int]] = [[] for _ in range(sequences)]

    def add(self, sequence: int, time: float) -> None:
        """A token of `sequence` arrived."""
        self._of[sequence].append(len(self._order))
        self._order.append(sequence)
        self._times.append(time)

    def require(self, tokens: int) -> None:
        """Raise RuntimeError unless each sequence has `tokens` tokens."""
        for number, places in enumerate(self._of):
            if len(places) != tokens:
                raise RuntimeError(f"prompt {number} was continued by {len(places)} tokens instead of {tokens}")

    @property
    def last(self) -> float:
        """When the last token of all arrived."""
        return self._times[-1]

    def window(self, *, to_the_end: bool = False) -> tuple[int, int]:
        """The places of two arrivals: the last of the step in which the last sequence began, and the last of the step
        in which the first sequence ended or, if asked for, of all.

        Raises:
            RuntimeError: the first had ended before the last began.
        """
        # Between the first two tokens of the last sequence lies one step, which is the longest pause there.
        begin, second = max(((places[0], places[1]) for places in self._of), key=lambda pair: pair[0])
        first = max(range(begin, second), key=self._pause)
        last = len(self._times) - 1
        if not to_the_end:
            ends = min(places[-1] for places in self._of)
            step = self._pause(first) / 20  # a step of fewer sequences is shorter, a pause within a burst much shorter
            last = next((place for place in range(ends, last) if self._pause(place) > step), last)
        if last <= first:
            raise RuntimeError("the first sequence had ended before the last began: give them more tokens")
        return first, last

    def times(self) -> tuple[float, float]:
        """When the window begins and ends."""
        first, last = self.window()
        return self._times[first], self._times[last]

    def rate(self, *, to_the_end: bool = False) -> float:
        """Tokens per second in the window."""
        first, last = self.window(to_the_end=to_the_end)
        return (last - first) / max(self._times[last] - self._times[first], 1e-9)

    def _pause(self, place: int) -> float:
        """Seconds between an arrival and the next."""
        return self._times[place + 1] - self._times[place]
