"""The type of activations, and with them of scales, biases, keys and values. Importing this imports nothing heavy."""

from __future__ import annotations

from typing import Literal, TypeAlias

from inference.gguf.reader import Header

__all__ = ["Precision", "precision_of"]

Precision: TypeAlias = Literal["float32", "float16", "bfloat16"]

WIDE = frozenset({"gemma2", "gemma3", "gpt-oss", "qwen2", "qwen2moe", "qwen3", "qwen3moe"})
"""Architectures whose activations leave float16's range, in some of their models: they were trained in bfloat16."""


def precision_of(header: Header, device: str) -> Precision:
    """What suits a file on "metal" or "cpu".

    On MLX's CPU device only float32 is multiplied at a usable speed. On Metal, float16 holds a file's scales as they
    are, where bfloat16 rounds them to 8 bits; a file that is mostly BF16 has few scales, and would be converted.
    """
    matrices = {tensor.type for tensor in header.tensors.values() if len(tensor.shape) > 1}
    if device == "cpu" or matrices == {"F32"}:
        return "float32"
    return "bfloat16" if header.architecture in WIDE or header.quantization == "BF16" else "float16"
