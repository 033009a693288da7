"""Kernels with all that makes one of their variants, for compiling them ahead of time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Specimen", "options"]


def options(warps: int) -> dict[str, int]:
    """How a kernel is compiled, ahead of time as at a launch. Triton does not load ahead for the next turn of a loop,
    which costs LDS and registers: other waves compute meanwhile."""
    return {"num_warps": warps, "num_stages": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Specimen:
    """One variant of a kernel."""

    name: str
    """The kernel's, and what makes the variant: "gemv Q4_K, 1 row"."""
    kernel: Any
    """A `triton.jit` function."""
    arguments: Mapping[str, str]
    """Triton's type of each argument that is no constant: "*fp16", "i32", "fp32"."""
    constants: Mapping[str, Any]
    """The values of the others."""
    warps: int
