"""The shared library: its bindings, started once, with its log lines in `logging`."""

from __future__ import annotations

import ctypes
import logging
from collections import deque
from functools import cache

from llama_cpp import llama_cpp as bindings
from llama_cpp._ggml import libggml

__all__ = ["bindings", "last_errors", "start", "take_device"]

# ggml_log_level of ggml.h; its "continue" (5) goes on with the line before.
_LEVELS = {1: logging.DEBUG, 2: logging.INFO, 3: logging.WARNING, 4: logging.ERROR}
_CONTINUE = 5

_log = logging.getLogger("inference.llama_cpp")
_log.addHandler(logging.NullHandler())  # llama.cpp warns a lot: shown where the program set up logging, not by default
_errors: deque[str] = deque(maxlen=8)
_level = logging.INFO


def start() -> None:
    """Initialise llama.cpp, and route its log: each time, for other users of llama.cpp in this process route it too."""
    bindings.llama_log_set(_receive_log, None)
    _initialise()


@cache
def _initialise() -> None:
    bindings.llama_backend_init()


def last_errors() -> list[str]:
    """llama.cpp's own words about what went wrong since the last call."""
    lines = list(_errors)
    _errors.clear()
    return lines


def take_device(name: str) -> int | None:
    """The handle of ggml's device `name` ("CUDA0"), or None if this build or machine has none."""
    by_name = libggml.ggml_backend_dev_by_name
    by_name.argtypes, by_name.restype = [ctypes.c_char_p], ctypes.c_void_p
    handle: int | None = by_name(name.encode())
    return handle


def cpu_buffer_type() -> int:
    """The handle of ggml's plain CPU buffers."""
    function = libggml.ggml_backend_cpu_buffer_type
    function.argtypes, function.restype = [], ctypes.c_void_p
    return int(function())


@bindings.llama_log_callback  # type: ignore[untyped-decorator]
def _receive_log(level: int, text: bytes, _: object) -> None:
    global _level
    if level != _CONTINUE:
        _level = _LEVELS.get(level, logging.INFO)
    wanted = _log.isEnabledFor(_level)
    if wanted or _level >= logging.ERROR:
        line = text.decode("utf-8", "replace").rstrip()
        if _level >= logging.ERROR and line:
            _errors.append(line)
        if wanted and line.strip("."):
            try:
                _log.log(_level, "%s", line)
            except Exception:  # noqa: BLE001 - somebody's handler; it cannot be raised through C
                _errors.append(f"a log handler failed on: {line}")
