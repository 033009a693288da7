"""Many prompts on their way into the engine, no more of them than it can use."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable, Iterator
from time import monotonic, sleep
from typing import Generic, TypeVar

from inference.engine.engine import Engine
from inference.engine.request import Request
from inference.errors import InferenceError, PromptError, QueueFullError
from inference.protocols import Prompt
from inference.stream import Channel, NumberedChannel

__all__ = ["Feed"]

T = TypeVar("T")

BURST = 0.02
"""Seconds that prompts are taken before those at hand are submitted: together, so that the engine makes slots for all
at once, but not so long that a slow source keeps it idle."""
SLOW = 0.005
"""Seconds for one prompt: from a source that takes longer, each is submitted by itself."""
PATIENCE = 0.005
"""Seconds between two looks at a queue that others have filled."""


class Feed(Generic[T]):
    """Takes prompts from an iterable as the engine finishes earlier ones, and gives what their requests make.

    Used on the consumer's thread alone, where the iterable is read.
    """

    def __init__(
        self,
        engine: Engine,
        prompts: Iterable[Prompt],
        make: Callable[[Prompt, Channel[T]], Request],
        fail: Callable[[Exception], T],
        *,
        window: int,
        low: int,
        sort: bool = False,
    ) -> None:
        """`make` gives the request for a prompt; what it raises, `fail` turns into the item's only answer. At most
        `window` are under way, and more are taken once `low` are. `sort`: submit those taken together by length."""
        if isinstance(prompts, str) or not isinstance(prompts, Iterable):
            raise PromptError(f"The prompts must be an iterable of prompts, got {type(prompts).__name__}.")
        self._engine = engine
        self._source: Iterator[Prompt] | None = iter(prompts)
        self._make = make
        self._fail = fail
        self._window = window
        self._low = low
        self._sort = sort
        self._queue: queue.SimpleQueue[tuple[int, T]] = queue.SimpleQueue()
        self._live: dict[int, Channel[T]] = {}
        self._taken = 0
        self._closed = False
        self._failure: Exception | None = None

    def get(self) -> tuple[int, T] | None:
        """The next item of any prompt, with the prompt's index; None after the last.

        Raises:
            Exception: what the iterable raised, once all prompts taken before have ended.
            EngineError: the engine takes no more.
        """
        if self._closed:
            return None
        try:
            return self._queue.get_nowait()  # before more prompts are asked for, which may take its time
        except queue.Empty:
            pass
        if self._source is not None and len(self._live) <= self._low:
            self._fill()
        if self._live:
            return self._queue.get()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        return None

    def ended(self, index: int) -> None:
        """The consumer has seen the last item of that prompt."""
        self._live.pop(index, None)

    def close(self) -> None:
        """Cancel what is under way. May be called from a finalizer, and on another thread than the consumer's."""
        self._closed = True
        self._source = None
        self._failure = None
        live, self._live = self._live, {}
        for channel in list(live.values()):
            channel.cancel()

    def _fill(self) -> None:
        """Submit as many as the window has room for, and leave half of the engine's queue to others."""
        while not self._live and not self._engine.room:
            self._engine.require_open()
            sleep(PATIENCE)
        room = min(self._window - len(self._live), max(self._engine.room // 2, 1))
        first = self._taken
        taken: list[Request] = []
        sent: set[Channel[T]] = set()
        try:
            self._take(room, taken)
            if self._sort:
                taken.sort(key=lambda request: request.prompt_length)
            while taken:
                fitting = max(self._engine.room, 1)
                try:
                    self._engine.submit(*taken[:fitting])
                    sent.update(request.channel for request in taken[:fitting])
                    del taken[:fitting]
                except QueueFullError:  # another thread was quicker
                    sleep(PATIENCE)
        except BaseException:
            # Nothing will come of those that were not submitted, also of one that was just being made: nobody may wait
            # for them.
            self._source = None
            for index in range(first, self._taken):
                if self._live.get(index) not in sent:
                    self._live.pop(index, None)
            raise

    def _take(self, room: int, taken: list[Request]) -> None:
        """Take up to `room` prompts, as long as the source is quick."""
        began = before = monotonic()
        while len(taken) < room and self._source is not None:
            request = self._next()
            if request is not None:
                taken.append(request)
            now = monotonic()
            if now - before > SLOW or now - began > BURST:
                return
            before = now

    def _next(self) -> Request | None:
        """The request for the next prompt; None where there is none, or it cannot be run."""
        assert self._source is not None
        try:
            prompt = next(self._source)
        except StopIteration:
            self._source = None
            return None
        except Exception as error:  # noqa: BLE001 - it is raised again, after what was under way
            error.add_note(f"It was raised by the iterable of prompts, when prompt {self._taken} was asked for.")
            self._source, self._failure = None, error
            return None
        if self._closed:  # meanwhile, by another thread
            return None
        index = self._taken
        self._taken += 1
        channel: NumberedChannel[T] = NumberedChannel(self._queue, index)
        self._live[index] = channel
        try:
            return self._make(prompt, channel)
        except Exception as error:  # noqa: BLE001 - it is this item's answer
            kind = type(error) if isinstance(error, InferenceError) else PromptError
            named = kind(f"Prompt {index}: {error}")
            named.__cause__ = error
            channel.put(self._fail(named))
            return None
