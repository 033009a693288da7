"""A lock on a path, so that two processes never write the same file."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
from pathlib import Path

import click

__all__ = ["Lock"]

HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK)

_log = logging.getLogger(__name__)


class Lock:
    """Holds `path` by a locked file beside it, `path`.lock. The system frees the lock with the process, however that
    ends; a lock file that is left behind means nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock_path = path.with_name(path.name + ".lock")
        self._file: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            click.ClickException: another process has it.
            OSError: the lock file cannot be made.
        """
        while True:
            file = os.open(self._lock_path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                _lock(file)
                if _is_at(file, self._lock_path):  # its last holder may have removed it between the two calls
                    self._file = file
                    return
            except BlockingIOError:
                os.close(file)
                raise click.ClickException(
                    f"{self._path} is being written by another process. Wait until that ends, or name another file."
                ) from None
            os.close(file)

    def release(self) -> None:
        """Give the lock back and remove its file."""
        if self._file is None:
            return
        if sys.platform != "win32":  # removed while it is held: after that it may be another's
            self._lock_path.unlink(missing_ok=True)
        os.close(self._file)
        self._file = None
        if sys.platform == "win32":
            with contextlib.suppress(OSError):
                self._lock_path.unlink()


def _lock(file: int) -> None:
    """Lock an open file.

    Raises:
        BlockingIOError: it is locked.
    """
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in HELD:
            raise BlockingIOError from error
        # Some network file systems have no locks: better to work there without one than not at all.
        _log.warning("No lock can be had here (%s): do not write to the same file twice at once.", error.strerror)


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False
