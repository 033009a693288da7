"""Leaving a thread that has used MLX."""

from __future__ import annotations

import threading

import mlx.core as mx

__all__ = ["leave_thread"]


def leave_thread() -> None:
    """The last that a thread of ours does with MLX. What it left would be torn down while the interpreter ends, which
    aborts the process. The main thread is left alone: its streams are its user's, and would not come back."""
    if threading.current_thread() is not threading.main_thread():
        mx.clear_streams()
