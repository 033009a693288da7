"""Where and with what figures were taken."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from inference.hardware import machine

__all__ = ["surroundings"]


def surroundings(repository: Path | None = None) -> dict[str, Any]:
    """The machine, the interpreter, how busy the machine is, and the commit of `repository`, as JSON takes them."""
    return {
        "machine": asdict(machine()),
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "platform": platform.platform(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "variables": {name: value for name, value in sorted(os.environ.items()) if name.startswith(("OMP_", "GOMP_"))},
        "commit": _commit(repository) if repository else None,
        "arguments": sys.argv[1:],
    }


def _commit(repository: Path) -> str | None:
    """The commit that is checked out, with "+" if files differ from it; None where there is no git."""
    try:
        return _git(repository, "rev-parse", "HEAD") + ("+" if _git(repository, "status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(repository: Path, *arguments: str) -> str:
    command = ["git", "-C", str(repository), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
