"""Kernels with all that makes one of their variants, for compiling them ahead of time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Specimen", "on_matrix_cores", "options"]


def options(warps: int) -> dict[str, int]:
    """How a kernel is compiled, ahead of time as at a launch. Triton does not load ahead for the next turn of a loop,
    which costs LDS and registers: other waves compute meanwhile."""
    return {"num_warps": warps, "num_stages": 1}


def on_matrix_cores(itemsize: int, wave: int) -> bool:
    """Whether matrix cores multiply numbers of so many bytes: all have 16 bits, only CDNA's have float32."""
    return itemsize == 2 or wave == 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Specimen:
    """One variant of a kernel."""

    name: str
    """The kernel's, and what makes the variant: "gemv Q4_K, 1 row"."""
    kernel: Any
    """A `triton.jit` function."""
    arguments: Mapping[str, str]
    """Triton's type of each argument that is no constant: "*fp16", "i32", "fp32"; "i32:16" is a multiple of 16."""
    constants: Mapping[str, Any]
    """The values of the others."""
    warps: int
    large: frozenset[str] = frozenset()
    """Tensors of 2 GiB or more: from all others lanes load by offsets of 32 bits, which take half the registers."""
    matrix: bool = False
    """Whether matrix cores have to multiply: see `on_matrix_cores`."""
