"""`Worker`: a Python process of ours for code that may end its process, or never end.

What strangers wrote (a chat template, a file for a C library) runs there, with limits of time and memory, and this
process lives on whatever comes of it. An answer takes a fifth of a millisecond more than a call; the process starts
with the first call, ends by itself after a while without one, and with this process at the latest.
"""

from __future__ import annotations

import atexit
import json
import marshal
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import weakref
from collections import deque
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import IO, Any

from inference.errors import InferenceError
from inference.worker_process import SIZE

__all__ = [
    "NoInterpreterError",
    "Worker",
    "WorkerBusyError",
    "WorkerDiedError",
    "WorkerError",
    "WorkerSlowError",
    "WorkerStartError",
    "Workers",
]

OUT_OF_TIME = getattr(signal, "SIGPROF", sys.maxsize)
"""What ends a process that has computed for as long as it may."""
IDLE = 60.0
"""Seconds without a call after which the process ends by itself, if nothing else is said."""
START = 60.0
"""Seconds that it may take to start and to import what it needs."""
ENDING = 1.0
"""Seconds that a process may take to end after it closed what it answers by."""
LAST_WORDS = 2000
"""Bytes of its standard error that are told."""
PATIENCE = 5.0
"""How many times as long as it may compute an answer may take by the clock: the machine may be busy with others."""
LONGEST = 2**30
"""Bytes of an answer that is believed: the process may not be itself any more."""

_workers: weakref.WeakSet[Worker] = weakref.WeakSet()
_groups: weakref.WeakSet[Workers] = weakref.WeakSet()


class WorkerError(InferenceError):
    """The process gave no answer."""


class WorkerStartError(WorkerError):
    """No process can be started, or it cannot import what it needs, whatever the call."""


class NoInterpreterError(WorkerStartError):
    """This program has no Python interpreter to start, as one that was frozen."""


class WorkerDiedError(WorkerError):
    """It ended; its last words are in the message."""


class WorkerSlowError(WorkerError):
    """It took longer than it may, and was ended."""


class WorkerBusyError(WorkerError):
    """Others had all processes for as long as an answer may take."""


class Worker:
    """Calls `function` ("package.module:name") in a process of its own, one call at a time, from any thread.

    The function takes one argument, made of what `marshal` knows, and returns what JSON knows. `memory`: most bytes
    that the process may map, where the system has such a limit (Linux); 0 for no limit. `idle`: seconds without a call
    after which it ends by itself.
    """

    def __init__(self, function: str, *, memory: int = 0, idle: float = IDLE) -> None:
        self._function = function
        self._memory = memory
        self._idle = idle
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        self._used = 0.0
        _workers.add(self)

    def call(self, argument: Any, seconds: float) -> Any:
        """What the function returns. It may compute for so many seconds, on all of its threads together; where the
        system does not count that (Windows), and for what waits, five times as many count by the clock.

        Raises:
            WorkerSlowError: it took longer.
            WorkerDiedError: the process ended instead.
            WorkerStartError: there is none, and none can be had.
            WorkerError: the argument cannot be sent, or nothing can watch the time.
        """
        try:
            request = marshal.dumps((argument, seconds))
        except ValueError as error:
            raise WorkerError(f"It cannot be sent to another process: {error}.") from error
        with self._lock:
            try:
                if not self._is_ready():
                    self._end()
                    self._start()
                return json.loads(self._answer(request, seconds * PATIENCE, seconds))
            except BaseException:  # an answer that was not read would be the next call's
                self._end()
                raise
            finally:
                self._used = monotonic()

    def close(self) -> None:
        """End the process. The next call starts another."""
        with self._lock:
            self._end()

    def _is_ready(self) -> bool:
        return self._process is not None and self._process.poll() is None and monotonic() - self._used <= self._idle / 2

    def _start(self) -> None:
        if not sys.executable or getattr(sys, "frozen", False):
            raise NoInterpreterError("No process can be started: this program knows of no Python interpreter.")
        code = f"from inference.worker_process import serve; serve({self._function!r}, {self._memory}, {self._idle})"
        try:
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
                start_new_session=True,  # Ctrl-C in a terminal is for this process alone
            )
            self._answer(b"", START, START)
        except (OSError, WorkerError) as error:
            raise WorkerStartError(f"No process can be started: {error}") from error

    def _answer(self, request: bytes, patience: float, seconds: float) -> bytes:
        """Send the request, if there is one, and wait for what comes back, at most for `patience`."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        expired = threading.Event()

        def give_up() -> None:
            expired.set()
            process.kill()

        late = threading.Timer(patience, give_up)
        late.daemon = True
        answer, length = b"", SIZE
        try:
            late.start()
            if request:
                self._forget_words()
                process.stdin.write(len(request).to_bytes(SIZE) + request)
                process.stdin.flush()
            length = int.from_bytes(process.stdout.read(SIZE))
            if 0 < length <= LONGEST:
                answer = process.stdout.read(length)
        except RuntimeError as error:
            raise WorkerError(f"Nothing can watch the time that it takes: {error}.") from error
        except OSError:
            pass  # it ended: told below
        finally:
            late.cancel()
            if late.is_alive():
                late.join()
        if answer and len(answer) == length and not expired.is_set():
            return answer
        with suppress(subprocess.TimeoutExpired):  # it may be about to end by itself, and tells then how
            process.wait(0 if expired.is_set() else ENDING)
        process.kill()
        ending = _ending(process)
        if expired.is_set() or process.returncode == -OUT_OF_TIME:
            raise WorkerSlowError(f"It took longer than {seconds:g} seconds.")
        raise WorkerDiedError(f"Its process ended ({ending}){self._last_words() or '.'}")

    def _last_words(self) -> str:
        """The end of its standard error, behind a colon; "" if it said nothing."""
        assert self._errors is not None
        self._errors.seek(max(self._errors.seek(0, os.SEEK_END) - LAST_WORDS, 0))
        words = self._errors.read().decode("utf-8", "replace").strip()
        return f": {words}" if words else ""

    def _forget_words(self) -> None:
        """What it said in earlier calls; it writes where this process would, for both have the file open once."""
        assert self._errors is not None
        self._errors.seek(0)
        self._errors.truncate()

    def _end(self) -> None:
        process, self._process = self._process, None
        errors, self._errors = self._errors, None
        if errors is not None:
            errors.close()
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                with suppress(OSError):  # what it was to be sent is still there
                    pipe.close()

    def kill(self) -> None:
        """End the process at once, also while it answers: that call fails."""
        process = self._process
        if process is not None:
            process.kill()

    def forget(self) -> None:
        """In a process that was forked: the worker is the other's."""
        self._lock = threading.Lock()
        self._process = self._errors = None


class Workers:
    """Several of one kind, made as threads need them at once; further threads wait."""

    def __init__(self, function: str, *, most: int, memory: int = 0) -> None:
        self._make = partial(Worker, function, memory=memory)
        self._most = most
        self.forget()
        _groups.add(self)

    def forget(self) -> None:
        """In a process that was forked: the workers are the other's, and its threads may have had some of them."""
        self._turns = queue.SimpleQueue[None]()  # in C, as `deque` is: an interrupt leaves nothing half done
        self._free = deque[Worker]()
        for _ in range(self._most):
            self._turns.put(None)

    def call(self, argument: Any, seconds: float) -> Any:
        """As `Worker.call`.

        Raises:
            WorkerBusyError: none became free in five times so many seconds.
        """
        try:
            self._turns.get(timeout=seconds * PATIENCE)
        except queue.Empty:
            raise WorkerBusyError(f"All {self._most} processes were busy for {seconds * PATIENCE:g} seconds.") from None
        try:
            worker = self._taken()
            try:
                return worker.call(argument, seconds)
            finally:
                self._free.append(worker)
        finally:
            self._turns.put(None)

    def _taken(self) -> Worker:
        """The one that was used last, which still runs; a new one where all are in use."""
        try:
            return self._free.pop()
        except IndexError:
            return self._make()


def _ending(process: subprocess.Popen[bytes]) -> str:
    code = process.wait()
    try:
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"
    except ValueError:
        return f"signal {-code}"


@atexit.register
def _close_all() -> None:
    for worker in list(_workers):
        worker.kill()  # a thread that waits for it would keep it, and this one, for as long as its call may take
        worker.close()


def _forget_all() -> None:
    for worker in list(_workers):
        worker.forget()
    for group in list(_groups):
        group.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
