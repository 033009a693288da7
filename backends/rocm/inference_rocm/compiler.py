"""The machine's C compiler, found without importing anything heavy."""

from __future__ import annotations

import shutil

__all__ = ["compiler"]


def compiler() -> str | None:
    """The command that would build the CPU kernels, None if there is none."""
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
