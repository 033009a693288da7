"""Ctrl-C while something is made that has to be freed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["deferred_interrupt"]


@contextmanager
def deferred_interrupt() -> Iterator[list[int]]:
    """Within the block, Ctrl-C puts an item into the list that is given, and is raised when the block ends; a
    second one is raised at once.

    A KeyboardInterrupt can come between any two instructions: between a C function's return and the name for what it
    made, say. Inside a function that C called it would be lost: ctypes cannot pass it on. Only the main thread receives
    signals, so on another thread this does nothing.
    """
    noted: list[int] = []
    usual = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(usual):
        yield noted
        return

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)
        if len(noted) > 1:
            usual(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, usual)
        if len(noted) == 1:
            usual(signal.SIGINT, None)
