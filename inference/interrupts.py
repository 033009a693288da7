"""Ctrl-C while something is made that has to be freed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["deferred_interrupt"]


@contextmanager
def deferred_interrupt() -> Iterator[list[BaseException]]:
    """Within the block, what Ctrl-C raises is put into the list that is given, and raised when the block ends. A second
    one is raised at once. A handler of the program's own that raises nothing is called as ever.

    A KeyboardInterrupt can come between any two instructions: between a C function's return and the name for what it
    made, say. Inside a function that C called it would be lost: ctypes cannot pass it on. Only the main thread receives
    signals, so on another thread this does nothing.
    """
    raised: list[BaseException] = []
    usual = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(usual):
        yield raised
        return

    def note(number: int, frame: FrameType | None) -> None:
        try:
            usual(number, frame)
        except BaseException as error:
            if raised:
                raise
            raised.append(error)

    signal.signal(signal.SIGINT, note)
    try:
        yield raised
    finally:
        signal.signal(signal.SIGINT, usual)
        if raised:
            raise raised[0].with_traceback(None) from None
