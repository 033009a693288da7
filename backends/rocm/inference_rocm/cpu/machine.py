"""What the CPU engine finds in a machine, without importing anything heavy."""

from __future__ import annotations

import shutil

from inference.hardware import machine

__all__ = ["compiler", "multiplies_bfloat16", "multiplies_bytes"]


def compiler() -> str | None:
    """The command that would build the kernels, None if there is none."""
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def multiplies_bfloat16() -> bool:
    """Whether the CPU has instructions for it: matrices that are not quantised are then kept and multiplied so."""
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(machine().cpu.features)


def multiplies_bytes() -> bool:
    """Whether the CPU has an instruction that multiplies bytes and adds them up, which quantised matrices want."""
    return "avx512_vnni" in machine().cpu.features
