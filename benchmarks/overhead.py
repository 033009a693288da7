"""What an engine and its Python cost beside llama.cpp's own computation."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from time import perf_counter, thread_time
from typing import Any, cast

from inference.measuring import (
    GREEDY,
    OPENING,
    Arrivals,
    BatchDecode,
    Batches,
    BatchSession,
    Competitor,
    Loads,
    OnModel,
    Repeat,
    Sample,
    Session,
    Settings,
)

__all__ = ["Computing", "Overhead", "computing", "cpu_between", "overhead"]


@dataclass(frozen=True, slots=True)
class Overhead(OnModel):
    """What a decoding step costs beside `llama_decode`: microseconds at one sequence, per cent of the step at more,
    while all of them decode.

    Counted is all wall time of the window in which no `llama_decode` runs, on whatever it is spent: filling the batch,
    sampling, text, the scheduler, waiting for the GIL, the operating system. To that comes the CPU time of the thread
    that consumes the tokens, whole, even where it hides behind a running `llama_decode`: it takes a core from it there.
    So what an engine does on both of its threads counts, and waiting too. It errs against the engine: the sampler's
    search through the logits is no overhead, and the consumer's clock is counted with the rest.

    Peers that call the same function are measured the same way.
    """

    sequences: int = 1
    tokens: int = 64

    @property
    def name(self) -> str:
        return f"overhead of a step at {self.sequences}"

    @property
    def unit(self) -> str:
        return "microseconds" if self.sequences == 1 else "% of the step"

    def reason_unsuited(self, competitor: Competitor) -> str | None:
        if self.sequences == 1:
            return None if isinstance(competitor, Loads) else "it cannot load a model file"
        return None if isinstance(competitor, Batches) else "it takes one prompt at a time"

    @contextmanager
    def prepared(self, competitor: Competitor) -> Iterator[Repeat]:
        settings = replace(self.settings, parallel=self.sequences)
        with computing() as calls, closing(self._load(competitor, settings)) as session:

            def repeat(_: int) -> Sample:
                calls.clear()
                return self._sample(session, calls)

            yield repeat

    def _load(self, competitor: Competitor, settings: Settings) -> Session:
        if self.sequences == 1:
            assert isinstance(competitor, Loads)
            return competitor.load(self.model, settings)
        assert isinstance(competitor, Batches)
        return competitor.load_batches(self.model, settings)

    def _sample(self, session: Session, calls: list[Computing]) -> Sample:
        arrivals = Arrivals(self.sequences)
        spent: list[float] = []
        for sequence in self._tokens(session):
            arrivals.add(sequence, perf_counter())
            spent.append(thread_time())
        arrivals.require(self.tokens)
        first, last = arrivals.window()
        window = arrivals.times()
        # Where the consumer's own thread computes, its CPU time is in the wall time already.
        alone = all(call.thread == threading.get_ident() for call in calls)
        consumer_cpu = 0.0 if alone else spent[last] - spent[first]
        seconds, steps = overhead(calls, window, consumer_cpu)
        step = (window[1] - window[0]) / steps
        value = 1e6 * seconds / steps if self.sequences == 1 else 100 * seconds / (window[1] - window[0])
        beside = {
            "a step, ms": 1000 * step,
            "between llama_decode, ms": 1000 * (seconds - consumer_cpu) / steps,
            "CPU of that, ms": 1000 * cpu_between(calls, window) / steps,
            "consumer's CPU, ms": 1000 * consumer_cpu / steps,
        }
        return Sample(value, f"{self.sequences} sequences, {self.tokens} tokens", beside)

    def _tokens(self, session: Session) -> Iterator[int]:
        if self.sequences == 1:
            return (0 for _ in session.stream(session.encode(OPENING), self.tokens, GREEDY))
        shape = BatchDecode(self.model, self.settings, sequences=self.sequences, tokens=self.tokens)
        return cast("BatchSession", session).batch(shape.prompts(session), self.tokens)


@dataclass(frozen=True, slots=True)
class Computing:
    """One call of `llama_decode`."""

    began: float
    ended: float
    cpu_began: float
    """CPU time of the thread that called it."""
    cpu_ended: float
    thread: int


def overhead(calls: Sequence[Computing], window: tuple[float, float], consumer_cpu: float) -> tuple[float, int]:
    """The seconds of the window that are overhead, and the number of steps in it. `consumer_cpu` is what the consumer's
    thread took of them.

    Raises:
        RuntimeError: nothing computed in the window.
    """
    begin, end = window
    inside = [call for call in calls if call.ended > begin and call.began < end]
    computed = sum(min(call.ended, end) - max(call.began, begin) for call in inside)
    steps = sum(call.ended <= end for call in inside)
    if not steps:
        raise RuntimeError(
            "no llama_decode was seen in the window: the engine calls another function, or the consumer came late"
        )
    return end - begin - computed + consumer_cpu, steps


def cpu_between(calls: Sequence[Computing], window: tuple[float, float]) -> float:
    """CPU seconds of the computing thread between the calls in the window: what is left of its overhead if it neither
    waited nor was kept from its core."""
    inside = [call for call in calls if call.ended > window[0] and call.began < window[1]]
    return sum(after.cpu_began - before.cpu_ended for before, after in pairwise(inside))


@contextmanager
def computing() -> Iterator[list[Computing]]:
    """Within: a list to which every call of `llama_decode` in this process is added."""
    from llama_cpp import llama_cpp as library

    decode: Callable[..., int] = library.llama_decode
    calls: list[Computing] = []

    def timed(*arguments: Any) -> int:
        began, cpu_began = perf_counter(), thread_time()
        status = decode(*arguments)
        calls.append(Computing(began, perf_counter(), cpu_began, thread_time(), threading.get_ident()))
        return status

    library.llama_decode = timed
    try:
        yield calls
    finally:
        library.llama_decode = decode
