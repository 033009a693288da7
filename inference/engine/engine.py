"""The engine: one thread that owns a runner and advances its requests step by step."""

from __future__ import annotations

import atexit
import logging
import os
import queue
import threading
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from inference.engine.loop import Loop
from inference.engine.request import Request
from inference.errors import EngineError, ModelClosedError, QueueFullError
from inference.options import MAX_WAITING
from inference.protocols import Runner
from inference.stream import Channel
from inference.types import MemoryUse, ModelStats

__all__ = ["Engine", "MakeRunner"]

MakeRunner = Callable[[], Runner]
"""Builds the runner. Called on the engine's thread."""

Message = Sequence[Request] | Channel[Any] | None
"""What the engine's thread is told: new requests; a channel whose consumer went away; None: look whether to close."""

_log = logging.getLogger(__name__)
_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """At the interpreter's exit: a device's threads must not outlive it."""
    for engine in list(_engines):
        engine.close()


class Engine:
    """Runs requests on a runner. `submit`, `stats` and `close` may be called from any thread.

    The runner is stepped and freed on the engine's own thread, since devices tie their arrays to one; `make_runner` is
    called there too.
    """

    def __init__(self, make_runner: MakeRunner, name: str, max_waiting: int = MAX_WAITING) -> None:
        """Start the thread and wait until the runner is built. What `make_runner` raises is raised here."""
        self._inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._closing = False
        self._lock = threading.Lock()  # between `submit` and the end: nothing is put into a dead inbox
        self._ended = False
        self._process = os.getpid()
        self._failure: Exception | None = None
        self._max_waiting = max_waiting
        self._submitted = 0
        self.context_length = 0
        built: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        _engines.add(self)
        self._thread = threading.Thread(
            target=self._main, args=(make_runner, built), name=f"engine {name}", daemon=True
        )
        self._thread.start()
        try:
            error = built.get()
        except BaseException:  # KeyboardInterrupt: leave no thread behind
            self.close()
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
            self._submitted += len(requests)
            self._inbox.put(requests)

    def require_open(self) -> None:
        """Raises what `submit` would."""
        if self._failure is not None:
            raise self._death(self._failure)
        if os.getpid() != self._process:
            raise EngineError("The model was loaded before this process was forked. Load it in the new process.")
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
            self._thread.join()

    # The engine's thread ---------------------------------------------------------------------------------------------

    def _main(self, make_runner: MakeRunner, built: queue.SimpleQueue[BaseException | None]) -> None:
        try:
            runner = make_runner()
        except BaseException as error:  # noqa: BLE001 - it is raised again by the thread that waits
            built.put(error)
            return
        self._runner = runner
        self._loop = Loop(runner)
        self.context_length = runner.context_length
        built.put(None)
        try:
            self._run()
        except Exception as error:  # noqa: BLE001 - told to every consumer, then and later
            _log.exception("The engine died")
            self._failure = error
        finally:
            self._shut_down()

    def _run(self) -> None:
        while True:
            self._receive()
            if self._closing:
                return
            self._loop.round()

    def _receive(self) -> None:
        """Take what came in. With nothing else to do, wait for it."""
        if self._loop.idle:
            self._loop.flush()
            self._take(self._inbox.get())
        while not self._inbox.empty():
            self._take(self._inbox.get())

    def _take(self, message: Message) -> None:
        if isinstance(message, Channel):
            self._loop.cancel(message)
        elif message is not None:
            for request in message:
                self._loop.add(request)

    def _shut_down(self) -> None:
        with self._lock:
            self._ended = True
        while not self._inbox.empty():
            self._take(self._inbox.get())
        if self._failure is None:
            self._loop.end_all(lambda: ModelClosedError("The model was closed while this was computed."))
        else:
            self._loop.end_all(partial(self._death, self._failure))
        try:
            self._runner.free()
        except Exception:  # noqa: BLE001 - the thread ends here, and nobody waits for this
            _log.exception("The runner could not be freed")

    @staticmethod
    def _death(cause: Exception) -> EngineError:
        error = EngineError(f"The model's engine died: {cause}. Load the model again.")
        error.__cause__ = cause
        return error
