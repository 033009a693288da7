"""What a worker's process is asked to do in tests."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress

__all__ = ["act"]


def act(wanted: tuple[str, ...]) -> object:
    what, *values = wanted
    if what == "echo":
        return values[0]
    if what in ("pid", "slow pid"):
        time.sleep(float(values[0]) if values else 0)
        return os.getpid()
    if what == "abort":
        os.write(2, b"last words\n")
        os.abort()
    if what == "cut answer":
        for descriptor in range(3, 10):  # that of the answers is among them
            with suppress(OSError):
                os.write(descriptor, (100).to_bytes(8) + b"half")
        os._exit(0)
    if what == "exit":
        os._exit(3)
    if what == "sleep":
        time.sleep(float(values[0]))
    if what == "spin":
        while True:
            pass
    if what == "print":
        sys.stdout.write(values[0] * 100)
        sys.stdout.flush()
        os.write(1, b"more of it\n")
        return "printed"
    if what == "raise":
        raise ValueError(values[0])
    if what == "allocate":
        try:
            return len(bytearray(int(values[0])))
        except MemoryError:
            return "MemoryError"
    return None
