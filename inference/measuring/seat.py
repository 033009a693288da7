"""Where a competitor does its repeats: a process of its own, or this one."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol

from inference.errors import InferenceError
from inference.measuring.case import Case, Repeat, Sample
from inference.measuring.competitor import Competitor

__all__ = ["PATIENCE", "CompetitorError", "Seat", "take_seat"]

PATIENCE = 600.0
"""Seconds after which a competitor that does not answer is given up."""
GRACE = 10.0
"""Seconds that a competitor has to free its model."""


LAST_WORDS = 3
"""Lines of a crashed competitor's output that are told."""


class CompetitorError(InferenceError):
    """A competitor failed while it prepared or did a repeat."""


class Seat(Protocol):
    """A competitor that is ready for repeats."""

    def repeat(self, number: int) -> Sample:
        """Do the work of round `number`.

        Raises:
            CompetitorError: it failed.
        """

    def close(self) -> None:
        """Free what it holds."""


def take_seat(case: Case, competitor: Competitor, *, patience: float = PATIENCE) -> Seat:
    """Prepare the competitor for the case, in a process of its own if the case wants that.

    Raises:
        CompetitorError: it cannot prepare.
    """
    return ProcessSeat(case, competitor, patience) if case.isolated else InlineSeat(case, competitor)


class InlineSeat:
    """In this process."""

    def __init__(self, case: Case, competitor: Competitor) -> None:
        self._stack = ExitStack()
        try:
            self._repeat: Repeat = self._stack.enter_context(case.prepared(competitor))
        except Exception as error:
            raise CompetitorError(_words(error)) from error

    def repeat(self, number: int) -> Sample:
        try:
            return self._repeat(number)
        except Exception as error:
            raise CompetitorError(_words(error)) from error

    def close(self) -> None:
        self._stack.close()


class ProcessSeat:
    """In a process that does nothing else, so that a crash ends one competitor and not the run.

    What the engine writes goes to a file: it must not get among our own lines, and a crash is told with its last lines.
    """

    def __init__(self, case: Case, competitor: Competitor, patience: float) -> None:
        self._patience = patience
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self._log = Path(self._folder.name, "log")
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, case, competitor, self._log), daemon=True)
        self._process.start()
        theirs.close()
        try:
            self._answer()
        except BaseException:
            self.close()
            raise

    def repeat(self, number: int) -> Sample:
        answer = self._answer(number)
        assert isinstance(answer, Sample)
        return answer

    def close(self) -> None:
        self._connection.close()  # the process reads the end, and leaves
        self._process.join(GRACE)
        if self._process.is_alive():
            self._kill()
            self._process.join()
        self._folder.cleanup()

    def _answer(self, number: int | None = None) -> Sample | None:
        """What the process says to `number`, or, without one, that it is ready."""
        try:
            if number is not None:
                self._connection.send(number)
            if not self._connection.poll(self._patience):
                self._kill()
                raise CompetitorError(f"no answer for {self._patience:g} s")
            answer = self._connection.recv()
        except (EOFError, OSError) as error:
            self._process.join(GRACE)
            raise CompetitorError(
                f"its process ended with exit code {self._process.exitcode}: {self._last_words()}"
            ) from error
        if isinstance(answer, str):
            raise CompetitorError(answer)
        return answer  # type: ignore[no-any-return]

    def _kill(self) -> None:
        """It, and the programs that it started."""
        assert self._process.pid is not None
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except (AttributeError, OSError):  # Windows; or it leads no group yet
            self._process.kill()

    def _last_words(self) -> str:
        lines = self._log.read_text("utf-8", "replace").split("\n") if self._log.exists() else []
        return " / ".join([line for line in lines if line.strip()][-LAST_WORDS:]) or "it says nothing"


def _serve(connection: Connection, case: Case, competitor: Competitor, log: Path) -> None:
    """The other process: says when it is ready, then answers each number with a sample, or with what went wrong."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then closes the connection
    if hasattr(os, "setpgrp"):
        os.setpgrp()  # programs that it starts can be ended with it
    written = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(written, 1)
    os.dup2(written, 2)
    try:
        seat = InlineSeat(case, competitor)
    except CompetitorError as error:
        connection.send(str(error))
        return
    connection.send(None)
    try:
        while True:
            number = connection.recv()
            try:
                answer: Sample | str = seat.repeat(number)
            except CompetitorError as error:
                answer = str(error)
            connection.send(answer)
    except (EOFError, OSError):
        seat.close()


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
