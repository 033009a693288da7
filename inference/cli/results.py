"""Where a batch's results go: a file from which a killed batch resumes, or a pipe.

A result is one line, written at once when its prompt ended. It tells which line of which run it answers, so that the
file alone says what is left to do: a line that is cut short was being written and is dropped, one that tells of a
failure is done again, and one of another input or other options is not mixed with new ones.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, Self

import click

from inference.cli.lock import Lock
from inference.cli.prompts import Line
from inference.cli.report import json_text

__all__ = ["Results", "ResultsFile", "ResultsPipe"]

FIRST_KEY = b'{"index": '
"""What every result begins with: tells a result that was cut short from somebody's own text."""
SYNC_SECONDS = 5.0
"""How often results are forced to the disk: a killed process loses none, a power cut the last few seconds'."""
BINARY = getattr(os, "O_BINARY", 0)


class Results(ABC):
    """Takes results. It is this process's within the `with` block."""

    def __init__(self, name: str, run: str) -> None:
        """`run` is the fingerprint of the model and the options."""
        self.name = name
        self._run = run

    @abstractmethod
    def __enter__(self) -> Self: ...

    @abstractmethod
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    @property
    def on_terminal(self) -> bool:
        """Whether they appear on the terminal."""
        return False

    @abstractmethod
    def begin(self) -> None:
        """Make it ready for new results."""

    def append(self, line: Line, content: Mapping[str, Any]) -> None:
        """Write what came of a line."""
        fingerprint = f"{self._run}-{line.fingerprint}"
        self._write(json_text({"index": line.index, **content, "fingerprint": fingerprint}).encode() + b"\n")

    @abstractmethod
    def _write(self, line: bytes) -> None: ...


class ResultsPipe(Results):
    """Standard output, or something else that cannot be read again."""

    def __enter__(self) -> Self:
        self._file = sys.stdout.buffer if self.name == "-" else Path(self.name).open("wb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.name != "-":
            self._file.close()

    @property
    def on_terminal(self) -> bool:
        return self._file.isatty()

    def begin(self) -> None:
        pass

    def _write(self, line: bytes) -> None:
        self._file.write(line)
        self._file.flush()


class ResultsFile(Results):
    """A file of results."""

    def __init__(self, name: str, run: str, *, overwrite: bool = False) -> None:
        """`overwrite`: what is in it does not count, and goes when new results come."""
        super().__init__(name, run)
        self._path = Path(os.path.realpath(name))  # through links, so that all names of it mean one lock
        self._overwrite = overwrite
        self._lock = Lock(self._path)
        self._file: int | None = None
        self._whole = 0
        self._synced = monotonic()
        self.failed = 0
        """How many results tell of a failure."""

    def __enter__(self) -> Self:
        self._lock.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self._file is not None:
                os.fsync(self._file)
                os.close(self._file)
        finally:
            self._lock.release()

    def is_empty(self) -> bool:
        """Whether nothing in it counts."""
        return self._overwrite or not self._path.exists() or not self._path.stat().st_size

    def finished(self, lines: array[int]) -> bytearray:
        """Which lines have their result, 1 or 0 by their index. `lines` are the fingerprints of all lines now.

        Raises:
            click.ClickException: the file holds something else, or results of another input, model or other options.
        """
        done = bytearray(len(lines))
        self._whole = self.failed = 0
        if self.is_empty():
            return done
        with self._path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                if not raw.endswith(b"\n"):
                    self._require_cut_short(raw)
                    break
                self._whole += len(raw)
                index, failed, fingerprint = self._read(number, raw)
                if failed:
                    self.failed += 1
                    continue
                self._require_same(index, fingerprint, lines)
                if done[index]:
                    raise self._refusal(f"answers line {index + 1} of the input twice")
                done[index] = 1
        return done

    def begin(self) -> None:
        """Drop what does not count: a line that was cut short, failures, everything if it is to be overwritten."""
        if self.failed:
            self._drop_failures()
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | BINARY, 0o666)
        os.ftruncate(self._file, self._whole)

    def _write(self, line: bytes) -> None:
        # In one call: a kill leaves the line whole, or cut short where `finished` drops it.
        assert self._file is not None
        try:
            while line:  # the system takes less only where the disk is full, and then says so at the next call
                line = line[os.write(self._file, line) :]
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.name) from error
        if (now := monotonic()) - self._synced >= SYNC_SECONDS:
            self._synced = now
            os.fsync(self._file)

    def _read(self, number: int, raw: bytes) -> tuple[int, bool, str]:
        """A result's index, whether it is a failure, and its fingerprint."""
        try:
            content = json.loads(raw)
            index, fingerprint = content["index"], content["fingerprint"]
            if type(index) is int and isinstance(fingerprint, str):
                return index, "error" in content, fingerprint
        except (ValueError, TypeError, KeyError, RecursionError):
            pass
        raise self._refusal(f"holds something else: its line {number} is no result of a batch")

    def _require_cut_short(self, raw: bytes) -> None:
        start = raw.rstrip(b"\0")[: len(FIRST_KEY)]  # some file systems fill up with zeros after a power cut
        if not FIRST_KEY.startswith(start):
            raise self._refusal("holds something else: its last line is no result of a batch")

    def _require_same(self, index: int, fingerprint: str, lines: array[int]) -> None:
        run, _, line = fingerprint.partition("-")
        if run != self._run:
            raise self._refusal("was begun with another model or other options")
        if not 0 <= index < len(lines) or f"{lines[index]:012x}" != line:
            raise self._refusal(f"answers another input: line {index + 1} is not what it was")

    def _refusal(self, what: str) -> click.ClickException:
        return click.ClickException(f"{self.name} {what}. Name another file with -o, or replace it with --overwrite.")

    def _drop_failures(self) -> None:
        """Replace the file by a copy without failures. Killed at any moment, it leaves the old one or the new one."""
        copy = self._path.with_name(self._path.name + ".rewritten")
        with copy.open("wb") as file:
            file.writelines(self._kept())
            self._whole = file.tell()
            file.flush()
            os.fsync(file.fileno())
        shutil.copymode(self._path, copy)
        copy.replace(self._path)
        self.failed = 0

    def _kept(self) -> Iterator[bytes]:
        left = self._whole
        with self._path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                left -= len(raw)
                if left < 0:
                    return
                if not self._read(number, raw)[1]:
                    yield raw
