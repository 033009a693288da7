"""The type of activations, and with them of scales, biases, keys and values. Importing this imports nothing heavy."""

from __future__ import annotations

from inference.gguf.half_types import HalfType, half_type
from inference.gguf.reader import Header

__all__ = ["precision_of"]


def precision_of(header: Header, device: str) -> HalfType:
    """What suits a file on "metal" or "cpu": on MLX's CPU device only float32 is multiplied at a usable speed."""
    return "float32" if device == "cpu" else half_type(header)
