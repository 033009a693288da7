"""What MLX may hold of the device's memory, and what it holds. Its counters and limits are the process's."""

from __future__ import annotations

import threading

import mlx.core as mx

from inference.types import MemoryUse

__all__ = ["Limits", "ran_out"]

CACHE_SHARE = 8
"""Buffers that MLX keeps for reuse may take one in so many of the bytes that the device recommends."""

_lock = threading.Lock()
_models: list[Limits] = []
_before: tuple[int, int] = (0, 0)


class Limits:
    """The limits of one loaded model. The first one on Metal sets them, the last one there that is released puts back
    what was before.

    On Metal the weights are wired: memory that the system may not take away, up to what it recommends. Elsewhere there
    is nothing to limit.
    """

    def __init__(self, recommended_bytes: int) -> None:
        """`recommended_bytes`: Metal's recommended working set; 0 on a device that has none."""
        global _before
        self._recommended_bytes = recommended_bytes
        with _lock:
            if not _models:
                mx.reset_peak_memory()
            if recommended_bytes and not _limited():
                cached = mx.set_cache_limit(recommended_bytes // CACHE_SHARE)
                _before = mx.set_wired_limit(recommended_bytes), cached
            _models.append(self)

    def memory(self) -> MemoryUse:
        """By MLX's own counters: of all models of this process that MLX runs."""
        active = mx.get_active_memory()
        return MemoryUse(active, max(active, mx.get_peak_memory()), measured=True)

    def release(self) -> None:
        """The model is gone. A second time does nothing."""
        mx.clear_cache()
        with _lock:
            if self not in _models:
                return
            _models.remove(self)
            if self._recommended_bytes and not _limited():
                wired, cached = _before
                mx.set_wired_limit(wired)
                mx.set_cache_limit(cached)


def ran_out(error: BaseException) -> bool:
    """Whether it says that there is no memory."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "alloc" in str(error))


def _limited() -> bool:
    """Whether a model on Metal is there."""
    return any(model._recommended_bytes for model in _models)
