"""The form in memory that each block format becomes."""

from __future__ import annotations

from typing import Literal, TypeAlias

__all__ = ["Form", "bytes_per_weight", "form_of"]

Form: TypeAlias = Literal["int4", "int8", "dense"]

_INT4 = frozenset({"Q4_0", "Q4_1", "Q4_K"})
_INT8 = frozenset({"Q8_0"})
_BYTES: dict[Form, float] = {"int4": 0.5 + 4 / 32, "int8": 1.0, "dense": 2.0}
"""Of one weight; int4 has a scale and a zero of two bytes for each group of 32."""


def form_of(block_format: str) -> Form:
    """What weights of a block format become: what the kernels can hold without rounding worse than llama.cpp does, else
    the compute type."""
    return "int4" if block_format in _INT4 else "int8" if block_format in _INT8 else "dense"


def bytes_per_weight(block_format: str) -> float:
    """Memory of one weight in the form that its block format becomes."""
    return _BYTES[form_of(block_format)]
