"""Ctrl-C while C code runs."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["deferred_interrupt"]


@contextmanager
def deferred_interrupt() -> Iterator[list[int]]:
    """Within the block, Ctrl-C puts an item into the list that is given; it is raised when the block ends.

    A KeyboardInterrupt that is raised inside a function that C called would be lost: ctypes cannot pass it on. Only the
    main thread receives signals, so on another thread this does nothing.
    """
    noted: list[int] = []
    usual = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(usual):
        yield noted
        return
    signal.signal(signal.SIGINT, lambda number, _: noted.append(number))
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, usual)
        if noted:
            usual(signal.SIGINT, None)
