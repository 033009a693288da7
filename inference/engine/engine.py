"""The engine: one thread that owns a runner and advances its requests step by step."""

from __future__ import annotations

import atexit
import logging
import os
import queue
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any

from inference.engine.loop import Loop
from inference.engine.request import Request
from inference.engine.watchdog import INTERVAL, unwatch, watch
from inference.errors import EngineError, EngineHungError, ModelClosedError, QueueFullError
from inference.options import MAX_WAITING
from inference.protocols import Runner
from inference.stream import Channel
from inference.types import MemoryUse, ModelStats

__all__ = ["Engine", "MakeRunner"]

MakeRunner = Callable[[], Runner]
"""Builds the runner. Called on the engine's thread."""

Message = Sequence[Request] | Channel[Any] | None
"""What the engine's thread is told: new requests; a channel whose consumer went away; None: look whether to close."""

FORKED = "The model was loaded before this process was forked. Load it in the new process."

_log = logging.getLogger(__name__)
_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """At the interpreter's exit: a device's threads must not outlive it."""
    for engine in list(_engines):
        engine.close()


def _disown_all() -> None:
    for engine in list(_engines):
        engine.disown()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_disown_all)


class Engine:
    """Runs requests on a runner. `submit`, `stats` and `close` may be called from any thread.

    The runner is stepped and freed on the engine's own thread, since devices tie their arrays to one; `make_runner` is
    called there too.
    """

    def __init__(
        self, make_runner: MakeRunner, name: str, max_waiting: int = MAX_WAITING, step_timeout: float = 0.0
    ) -> None:
        """Start the thread and wait until the runner is built. What `make_runner` raises is raised here. 0 as
        `step_timeout` waits for ever."""
        self._inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._closing = False
        self._lock = threading.Lock()  # between `submit` and the end: nothing is put into a dead inbox
        self._ended = False
        self._process = os.getpid()
        self._failure: BaseException | None = None
        self._round_began: float | None = None
        """When the round began that runs; None between rounds."""
        self._watched_round: float | None = None
        self._watched_for = 0.0
        """Which round the watchdog saw last, and for how long."""
        self._hung = False
        self._max_waiting = max_waiting
        self._step_timeout = step_timeout
        self._submitted = 0
        self.context_length = 0
        built: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        _engines.add(self)
        self._thread = threading.Thread(
            target=self._main, args=(make_runner, built), name=f"engine {name}", daemon=True
        )
        try:
            self._thread.start()
            error = built.get()
        except BaseException:  # KeyboardInterrupt: the thread ends by itself once the runner is built
            self.stop()
            raise
        if error is not None:
            self._thread.join()
            raise error

    # Any thread ------------------------------------------------------------------------------------------------------

    @property
    def max_slots(self) -> int:
        """How many requests may run at once."""
        return self._loop.max_slots

    @property
    def room(self) -> int:
        """How many requests may be submitted now."""
        return max(self.max_slots + self._max_waiting - self._unfinished, 0)

    @property
    def _unfinished(self) -> int:
        return self._submitted - self._loop.tally.ended

    def submit(self, *requests: Request) -> None:
        """Queue requests, which the engine sees at once; what they make comes through their channels.

        Raises:
            ModelClosedError: the engine was closed.
            QueueFullError: too many wait already.
            EngineError: the engine died of an earlier failure.
        """
        for request in requests:
            request.channel.notify = self._inbox.put
        with self._lock:
            self.require_open()
            if len(requests) > self.room:
                raise QueueFullError(
                    f"{self._unfinished} calls run or wait, which is as many as `max_waiting` allows. Try "
                    f"again later, or load the model with a larger `max_waiting`."
                )
            self._inbox.put(requests)
            self._submitted += len(requests)

    def require_open(self) -> None:
        """Raises what `submit` would."""
        if self._failure is not None:
            raise self._death(self._failure)
        if os.getpid() != self._process:
            raise EngineError(FORKED)
        if self._closing or self._ended:
            raise ModelClosedError("The model is closed. Load it again to go on.")

    def stats(self) -> ModelStats:
        """What all requests took until now."""
        tally = self._loop.tally
        with tally.lock:
            running = [request.stats() for request in list(self._loop.scheduler.running)]
            return tally.stats(running, waiting=max(self._unfinished - len(running), 0))

    def memory(self) -> MemoryUse | None:
        """What the runner holds; None once it was freed."""
        return None if self._ended else self._runner.memory()

    def stop(self) -> None:
        """Ask it to end, and do not wait: all that a finalizer may do, which can run on any thread between any two
        instructions."""
        self._closing = True
        self._inbox.put(None)

    def close(self) -> None:
        """End all requests with `ModelClosedError`, free the runner, and return when that is done. A second call waits
        for the first."""
        self.stop()
        if threading.current_thread() is not self._thread and os.getpid() == self._process:
            while self._thread.is_alive() and not self._hung:
                self._thread.join(INTERVAL)

    # Other threads of ours -------------------------------------------------------------------------------------------

    def look(self, passed: float) -> None:
        """Called by the watchdog, so many seconds after its last look. An engine that hangs is given up: its consumers
        are told, and its thread and what the runner holds are left as they are."""
        began = self._round_began
        if began is None or began != self._watched_round:
            self._watched_round, self._watched_for = began, 0.0
            return
        self._watched_for += passed
        if self._watched_for <= self._step_timeout or self._hung:
            return
        error = EngineHungError(
            f"The engine has not come back from a step for {self._step_timeout:g} seconds. The model is dead, and its "
            f"memory is free again when the process ends: start another one."
        )
        with self._lock:  # nothing is submitted from here on
            self._failure = error
            self._hung = True
        _log.critical("%s: %s", self._thread.name, error)
        self._end_known(partial(self._death, error))

    def disown(self) -> None:
        """In a process that was forked: the thread is the other's."""
        self._lock = threading.Lock()
        if hasattr(self, "_loop"):
            self._loop.tally.lock = threading.Lock()
            self._end_known(lambda: EngineError(FORKED))

    def _end_known(self, error: Callable[[], Exception]) -> None:
        """End every request with an error, on another thread than the engine's, which does not run."""
        told = (message for message in self._messages() if message is not None and not isinstance(message, Channel))
        for request in (*self._loop.scheduler, *(request for message in told for request in message)):
            with suppress(Exception):  # what it was doing is not known
                request.end("error", error())

    # The engine's thread ---------------------------------------------------------------------------------------------

    def _main(self, make_runner: MakeRunner, built: queue.SimpleQueue[BaseException | None]) -> None:
        runner: Runner | None = None
        try:
            runner = self._runner = make_runner()
            self._loop = Loop(runner)
            self.context_length = runner.context_length
            if self._step_timeout:
                watch(self)
        except BaseException as error:  # noqa: BLE001 - it is raised again by the thread that waits
            try:
                if runner is not None:
                    runner.free()
            finally:
                built.put(error)
            return
        built.put(None)
        try:
            self._run()
        except BaseException as error:  # noqa: BLE001 - told to every consumer, then and later
            _log.exception("The engine died")
            self._failure = error
        finally:
            self._shut_down()
            unwatch(self)

    def _run(self) -> None:
        while True:
            self._receive()
            if self._closing or self._failure is not None:
                return
            self._round_began = monotonic()
            self._loop.round()
            self._round_began = None

    def _receive(self) -> None:
        """Take what came in. With nothing else to do, wait for it."""
        if self._loop.idle:
            self._loop.flush()
            self._take(self._inbox.get())
        for message in self._messages():
            self._take(message)

    def _messages(self) -> Iterator[Message]:
        """What is in the inbox now. It does not wait, where another thread was quicker."""
        with suppress(queue.Empty):
            while True:
                yield self._inbox.get_nowait()

    def _take(self, message: Message) -> None:
        if isinstance(message, Channel):
            self._loop.cancel(message)
        elif message is not None:
            for request in message:
                self._loop.add(request)

    def _shut_down(self) -> None:
        with self._lock:
            self._ended = True
        for message in self._messages():
            self._take(message)
        if self._failure is None:
            self._loop.end_all(lambda: ModelClosedError("The model was closed while this was computed."))
        else:
            self._loop.end_all(partial(self._death, self._failure))
        self._round_began = monotonic()
        try:
            self._runner.free()
        except Exception:  # noqa: BLE001 - the thread ends here, and nobody waits for this
            _log.exception("The runner could not be freed")
        self._round_began = None

    @staticmethod
    def _death(cause: BaseException) -> EngineError:
        if isinstance(cause, EngineHungError):
            return EngineHungError(str(cause))
        error = EngineError(f"The model's engine died: {type(cause).__name__}: {cause}. Load the model again.")
        error.__cause__ = cause
        return error
