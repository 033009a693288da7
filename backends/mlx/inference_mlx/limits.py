"""What MLX may hold of the device's memory, and what it holds. Its counters and limits are the process's."""

from __future__ import annotations

import threading

import mlx.core as mx

from inference.types import MemoryUse

__all__ = ["Limits"]

CACHE_SHARE = 8
"""Buffers that MLX keeps for reuse may take one in so many of the bytes that the device recommends."""

_lock = threading.Lock()
_models = 0
_before: tuple[int, int] = (0, 0)


class Limits:
    """The limits of one loaded model. The first one sets them, the last one that is released puts back what was before.

    On Metal the weights are wired: memory that the system may not take away, up to what it recommends. Elsewhere there
    is nothing to limit.
    """

    def __init__(self, recommended_bytes: int) -> None:
        """`recommended_bytes`: Metal's recommended working set; 0 on a device that has none."""
        global _models, _before
        self._recommended_bytes = recommended_bytes
        self._held = True
        with _lock:
            if not _models:
                mx.reset_peak_memory()
                if recommended_bytes:
                    cached = mx.set_cache_limit(recommended_bytes // CACHE_SHARE)
                    _before = mx.set_wired_limit(recommended_bytes), cached
            _models += 1

    def memory(self) -> MemoryUse:
        """By MLX's own counters: of all models of this process that MLX runs."""
        active = mx.get_active_memory()
        return MemoryUse(active, max(active, mx.get_peak_memory()), measured=True)

    def release(self) -> None:
        """The model is gone. A second time does nothing."""
        global _models
        mx.clear_cache()
        with _lock:
            _models -= self._held
            if self._held and not _models and self._recommended_bytes:
                wired, cached = _before
                mx.set_wired_limit(wired)
                mx.set_cache_limit(cached)
        self._held = False
