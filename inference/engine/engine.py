"""The engine: one thread that owns a runner and advances its sequences step by step."""

from __future__ import annotations

import atexit
import logging
import os
import queue
import threading
import weakref
from collections import deque
from collections.abc import Callable
from time import monotonic

from inference.engine.scheduler import Scheduler
from inference.engine.sequence import Sequence
from inference.errors import EngineError, LoadError, ModelClosedError
from inference.protocols import Pending, Row, Runner
from inference.stream import Channel
from inference.types import FinishReason

__all__ = ["Engine", "MakeRunner"]

MakeRunner = Callable[[], Runner]
"""Builds the runner. Called on the engine's thread."""

Plan = list[tuple[Sequence, Row]]

_log = logging.getLogger(__name__)
_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """At the interpreter's exit: a device's threads must not outlive it."""
    for engine in list(_engines):
        engine.close()


class Engine:
    """Runs sequences on a runner. `submit` and `close` may be called from any thread.

    The runner is stepped and freed on the engine's own thread, since devices tie their arrays to one; `make_runner` is
    called there too.
    """

    def __init__(self, make_runner: MakeRunner, name: str) -> None:
        """Start the thread and wait until the runner is built. What `make_runner` raises is raised here."""
        self._inbox: queue.SimpleQueue[Sequence | None] = queue.SimpleQueue()  # None: look whether to close
        self._closing = False
        self._lock = threading.Lock()  # between `submit` and the end: nothing is put into a dead inbox
        self._ended = False
        self._process = os.getpid()
        self._failure: Exception | None = None
        self._held: list[Channel] = []
        self._in_flight: deque[tuple[Plan, Pending]] = deque()
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

    def submit(self, sequence: Sequence) -> None:
        """Queue a sequence; its tokens come through its channel.

        Raises:
            ModelClosedError: the engine was closed.
            EngineError: the engine died of an earlier failure.
        """
        with self._lock:
            self.require_open()
            self._inbox.put(sequence)

    def require_open(self) -> None:
        """Raises what `submit` would."""
        if self._failure is not None:
            raise self._death(self._failure)
        if os.getpid() != self._process:
            raise EngineError("The model was loaded before this process was forked. Load it in the new process.")
        if self._closing or self._ended:
            raise ModelClosedError("The model is closed. Load it again to go on.")

    def stop(self) -> None:
        """Ask it to end, and do not wait: all that a finalizer may do, which can run on any thread between any two
        instructions."""
        self._closing = True
        self._inbox.put(None)

    def close(self) -> None:
        """End all sequences with `ModelClosedError`, free the runner, and return when that is done. A second call waits
        for the first."""
        self.stop()
        if threading.current_thread() is not self._thread and os.getpid() == self._process:
            self._thread.join()

    def _main(self, make_runner: MakeRunner, built: queue.SimpleQueue[BaseException | None]) -> None:
        try:
            runner = make_runner()
        except BaseException as error:  # noqa: BLE001 - it is raised again by the thread that waits
            built.put(error)
            return
        self._runner = runner
        self._scheduler = Scheduler(runner.slots, runner.batch_size)
        self._max_slots = runner.max_slots
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
        runner, scheduler = self._runner, self._scheduler
        while True:
            self._receive()
            if self._closing:
                return
            self._drop_leavers()
            self._admit()
            plan = scheduler.plan()
            if plan:
                self._launch(plan)
            else:
                self._flush()
            # Read the oldest step once more steps are under way than the device may run ahead.
            allowed = runner.lookahead if plan else 0
            while len(self._in_flight) > allowed:
                self._deliver(*self._in_flight.popleft())

    def _receive(self) -> None:
        """Take what came in. With nothing else to do, wait for it."""
        if not self._scheduler and not self._in_flight:
            self._flush()
            self._take(self._inbox.get())
        while not self._inbox.empty():
            self._take(self._inbox.get())

    def _take(self, sequence: Sequence | None) -> None:
        if sequence is not None:
            self._scheduler.add(sequence)

    def _drop_leavers(self) -> None:
        """End the sequences whose consumer went away or whose time is up."""
        now = monotonic()
        for sequence in list(self._scheduler):
            if sequence.channel.cancelled:
                self._end(sequence, "cancelled")
            elif sequence.deadline is not None and now >= sequence.deadline:
                self._end(sequence, "timeout")

    def _admit(self) -> None:
        scheduler, runner = self._scheduler, self._runner
        if scheduler.starved and runner.slots < self._max_slots:
            self._deliver_all()
            try:
                runner.resize(min(2 * runner.slots, self._max_slots))
                scheduler.grow(runner.slots)
            except LoadError as error:
                _log.warning("No memory for more than %d sequences at once: %s", runner.slots, error)
                self._max_slots = runner.slots
        for sequence in scheduler.admit():
            try:
                runner.open(sequence.slot, sequence.options, sequence.seed, sequence.prompt)
            except Exception as error:  # noqa: BLE001 - it goes to the consumer
                self._fail([sequence], error)

    def _launch(self, plan: Plan) -> None:
        self._flush()
        try:
            self._in_flight.append((plan, self._runner.step([row for _, row in plan])))
        except Exception as error:  # noqa: BLE001 - it goes to the consumers
            self._fail([sequence for sequence, _ in plan], error)

    def _deliver_all(self) -> None:
        while self._in_flight:
            self._deliver(*self._in_flight.popleft())

    def _deliver(self, plan: Plan, pending: Pending) -> None:
        """Wait for a step and hand out its tokens."""
        try:
            tokens, logprobs = pending.tokens(), pending.logprobs()
        except Exception as error:  # noqa: BLE001 - it goes to the consumers
            self._fail([sequence for sequence, _ in plan], error)
            return
        self._held.extend([sequence.channel for sequence, row in plan if row.sample])
        for (sequence, row), token, logprob in zip(plan, tokens, logprobs, strict=True):
            # With lookahead, a sequence may have ended after this step was launched: its token is surplus.
            if row.sample and not sequence.finished and not sequence.accept(token, logprob):
                self._release(sequence)

    def _flush(self) -> None:
        """Hand over the tokens of the last step. Not before the next one is about to start: consumers who woke earlier
        would only wait for the GIL, on a core that computes."""
        for channel in self._held:
            channel.flush()
        self._held.clear()

    def _fail(self, sequences: list[Sequence], error: Exception) -> None:
        """A step failed: end its sequences with the reason, and go on with the others."""
        _log.error("A step failed: %s", error)
        for sequence in sequences:  # an exception each: they are raised on several threads
            known = isinstance(error, EngineError)
            told = EngineError(str(error) if known else f"The engine failed while it computed: {error}")
            told.__cause__ = error
            self._end(sequence, "error", told)

    def _end(self, sequence: Sequence, reason: FinishReason, error: Exception | None = None) -> None:
        if not sequence.finished:
            sequence.end(reason, error)
            self._release(sequence)

    def _release(self, sequence: Sequence) -> None:
        self._scheduler.remove(sequence)
        if sequence.slot >= 0:
            self._runner.close(sequence.slot)

    def _shut_down(self) -> None:
        self._flush()
        with self._lock:
            self._ended = True
        while not self._inbox.empty():
            self._take(self._inbox.get())
        for sequence in list(self._scheduler):
            closed = ModelClosedError("The model was closed while this text was generated.")
            sequence.end("error", closed if self._failure is None else self._death(self._failure))
        self._in_flight.clear()
        try:
            self._runner.free()
        except Exception:  # noqa: BLE001 - the thread ends here, and nobody waits for this
            _log.exception("The runner could not be freed")

    @staticmethod
    def _death(cause: Exception) -> EngineError:
        error = EngineError(f"The model's engine died: {cause}. Load the model again.")
        error.__cause__ = cause
        return error
