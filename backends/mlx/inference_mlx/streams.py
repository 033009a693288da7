"""MLX's streams: each model has one, on which all of it runs."""

from __future__ import annotations

import os
import threading

import mlx.core as mx

__all__ = ["leave_stream", "take_stream"]

_lock = threading.Lock()
_unused: list[mx.Stream] = []
"""Of closed models, on the CPU. There each stream has a native thread, which MLX never ends."""


def take_stream(device: str) -> mx.Stream:
    """A stream on a device, "metal" or "cpu", for a model of this thread, whose default it becomes: the one that MLX
    would make for the thread, to come back to, would stay for ever as well. The main thread keeps its own default."""
    if device == "metal":
        stream = mx.new_stream(mx.gpu)
    else:
        with _lock:
            stream = _unused.pop() if _unused else mx.new_thread_unsafe_stream(mx.cpu)
    if not _is_main():
        mx.set_default_stream(stream)
    return stream


def leave_stream(stream: mx.Stream) -> None:
    """The last that a model's thread does with MLX. What it left would be torn down while the interpreter ends, which
    aborts the process. The main thread is left alone: its streams are its user's, and would not come back."""
    if not _is_main():
        mx.clear_streams()
    if stream.device == mx.Device(mx.cpu):
        with _lock:
            _unused.append(stream)


def _is_main() -> bool:
    return threading.current_thread() is threading.main_thread()


def _forget() -> None:
    """In a process that was forked: the streams' threads are the other's."""
    global _lock
    _lock = threading.Lock()
    _unused.clear()


os.register_at_fork(after_in_child=_forget)
