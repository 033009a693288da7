"""Where a competitor does its repeats: a process of its own, or this one."""

from __future__ import annotations

import multiprocessing
import os
import signal
from contextlib import ExitStack
from multiprocessing.connection import Connection
from typing import Protocol

from inference.errors import InferenceError
from inference.measuring.case import Case, Repeat, Sample
from inference.measuring.competitor import Competitor

__all__ = ["PATIENCE", "CompetitorError", "Seat", "take_seat"]

PATIENCE = 600.0
"""Seconds after which a competitor that does not answer is given up."""
GRACE = 10.0
"""Seconds that a competitor has to free its model."""


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
    """In a process that does nothing else, so that a crash ends one competitor and not the run."""

    def __init__(self, case: Case, competitor: Competitor, patience: float) -> None:
        self._patience = patience
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, case, competitor), daemon=True)
        self._process.start()
        theirs.close()
        self._answer()

    def repeat(self, number: int) -> Sample:
        self._connection.send(number)
        answer = self._answer()
        assert isinstance(answer, Sample)
        return answer

    def close(self) -> None:
        self._connection.close()  # the process reads the end, and leaves
        self._process.join(GRACE)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _answer(self) -> Sample | None:
        try:
            if not self._connection.poll(self._patience):
                self._process.kill()
                raise CompetitorError(f"no answer for {self._patience:g} s")
            answer = self._connection.recv()
        except (EOFError, OSError) as error:
            self._process.join(GRACE)
            raise CompetitorError(f"its process ended with exit code {self._process.exitcode}") from error
        if isinstance(answer, str):
            raise CompetitorError(answer)
        return answer  # type: ignore[no-any-return]


def _serve(connection: Connection, case: Case, competitor: Competitor) -> None:
    """The other process: says when it is ready, then answers each number with a sample, or with what went wrong."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then closes the connection
    os.dup2(2, 1)  # what an engine prints must not get into our JSON lines
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
