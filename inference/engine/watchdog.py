"""The watchdog: a thread that looks at engines every now and then, since one that hangs cannot say so itself."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from time import monotonic
from typing import Protocol

__all__ = ["INTERVAL", "unwatch", "watch"]

INTERVAL = 0.5
"""Seconds between two looks."""


_log = logging.getLogger(__name__)


class Watched(Protocol):
    """What can hang."""

    def look(self, passed: float) -> None:
        """Find out whether it hangs, and act. The last look was so many seconds ago, as far as this process ran."""


class _Watchdog:
    """One thread, while there is anything to look at."""

    def __init__(self) -> None:
        self.watched: weakref.WeakSet[Watched] = weakref.WeakSet()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        before = monotonic()
        while not self._done.wait(INTERVAL):
            now = monotonic()
            self._look(min(now - before, 2 * INTERVAL))  # more, and the process itself was stopped, or the machine
            before = now

    def _look(self, passed: float) -> None:
        for each in list(self.watched):
            try:
                each.look(passed)
            except Exception:  # noqa: BLE001 - the others are to be watched too
                _log.exception("The watchdog could not look")


_lock = threading.Lock()
_watchdog: _Watchdog | None = None


def watch(engine: Watched) -> None:
    """Look at it from now on."""
    global _watchdog
    with _lock:
        _watchdog = _watchdog or _Watchdog()
        _watchdog.watched.add(engine)


def unwatch(engine: Watched) -> None:
    """Look at it no more. With the last one the thread is gone."""
    global _watchdog
    with _lock:
        idle = None
        if _watchdog is not None:
            _watchdog.watched.discard(engine)
            if not _watchdog.watched:
                idle, _watchdog = _watchdog, None
    if idle is not None:
        idle.end()


def _forget() -> None:
    """In a process that was forked: the thread is the other's."""
    global _lock, _watchdog
    _lock, _watchdog = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
