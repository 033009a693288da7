"""The 16-bit type that suits a file's activations, keys and values."""

from __future__ import annotations

from typing import Literal, TypeAlias

from inference.gguf.header import Header

__all__ = ["HalfType", "half_type"]

HalfType: TypeAlias = Literal["float16", "bfloat16", "float32"]

WIDE = frozenset({"gemma2", "gemma3", "gpt-oss", "qwen2", "qwen2moe", "qwen3", "qwen3moe"})
"""Architectures whose activations leave float16's range, in some of their models: they were trained in bfloat16."""


def half_type(header: Header) -> HalfType:
    """For a device that multiplies both types equally fast. "float32" if all matrices are: who keeps four bytes for a
    weight wants no rounding.

    float16 holds a file's scales as they are, where bfloat16 rounds them to 8 bits; a file that is mostly BF16 has few
    scales, and would be converted.
    """
    if {tensor.type for tensor in header.tensors.values() if len(tensor.shape) > 1} == {"F32"}:
        return "float32"
    return "bfloat16" if header.architecture in WIDE or header.quantization == "BF16" else "float16"
