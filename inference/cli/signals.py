"""SIGTERM as an exception, so that a command ends in order."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Terminated", "exit_code", "raises_terminated"]

INTERRUPTED = 130
TERMINATED = 143
"""What a shell reports for a program that Ctrl-C, or SIGTERM, ended."""


class Terminated(KeyboardInterrupt):
    """SIGTERM came. Whatever ends in order at Ctrl-C does so at this too."""


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """What the program ends with."""
    return TERMINATED if isinstance(interrupt, Terminated) else INTERRUPTED


@contextmanager
def raises_terminated() -> Iterator[None]:
    """Within it, SIGTERM raises `Terminated` in the main thread."""
    if threading.current_thread() is not threading.main_thread():  # only there can a handler be set
        yield
        return

    def terminate(_number: int, _frame: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
