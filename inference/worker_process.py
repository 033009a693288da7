"""The other side of `Worker`: answers calls in a process of its own."""

from __future__ import annotations

import json
import marshal
import os
import signal
import threading
from collections.abc import Callable
from importlib import import_module
from typing import IO, Any

__all__ = ["SIZE", "serve"]

SIZE = 8
"""Bytes of the number before each message: how long it is."""


def serve(function: str, memory: int, idle: float) -> None:
    """Answer calls of `function` until the other side goes away."""
    requests = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the function prints is no answer
    if memory:
        _limit_memory(memory)
    module, _, name = function.partition(":")
    called: Callable[[Any], Any] = getattr(import_module(module), name)
    _send(answers, None)
    while True:
        leaving = threading.Timer(idle, os._exit, (0,))
        leaving.daemon = True
        leaving.start()
        length = requests.read(SIZE)
        leaving.cancel()
        if len(length) < SIZE:
            os._exit(0)
        argument, seconds = marshal.loads(requests.read(int.from_bytes(length)))
        _end_after(seconds)
        _send(answers, called(argument))
        _end_after(0)


def _send(answers: IO[bytes], value: Any) -> None:
    data = json.dumps(value).encode()
    answers.write(len(data).to_bytes(SIZE) + data)
    answers.flush()


def _limit_memory(size: int) -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _end_after(seconds: float) -> None:
    """Have the system end this process once it has computed for so long, also where nobody waits for it any more; 0
    takes it back."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)
