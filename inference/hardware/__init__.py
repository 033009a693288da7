"""What this machine is: processor, GPUs, memory. Found out within milliseconds, by reading what the system shows.

Nothing here raises: what cannot be read is None.
"""

from __future__ import annotations

import os
import sys

from inference.hardware.parts import CPU, GPU, Machine, System
from inference.hardware.utilization import utilization_gauge

if sys.platform == "win32":
    from inference.hardware import windows as _system
elif sys.platform == "darwin":
    from inference.hardware import darwin as _system
else:
    from inference.hardware import linux as _system

__all__ = [
    "CPU",
    "GPU",
    "Machine",
    "available_memory",
    "drivers",
    "machine",
    "physical_cores",
    "utilization_gauge",
]

_SYSTEMS: dict[str, System] = {"win32": "windows", "darwin": "darwin"}
_ARCHITECTURES = {"amd64": "x86_64", "aarch64": "arm64"}


def machine() -> Machine:
    """This machine as it is now."""
    total, available = _system.memory()
    return Machine(
        system=_SYSTEMS.get(sys.platform, "linux"),
        architecture=_architecture(),
        cpu=_system.cpu(),
        gpus=_system.gpus(),
        memory_bytes=total,
        available_memory_bytes=available,
    )


def available_memory() -> int | None:
    """Bytes of main memory that this process could fill now without swapping; None where the system does not say.

    Limits of a container count, and file pages that the system would give up count as free.
    """
    return _system.memory()[1]


def drivers() -> dict[str, str]:
    """Versions of what drives this machine's GPUs, by name; empty where there is nothing, or it does not say."""
    return _system.drivers()


def physical_cores() -> int:
    """How many cores this process may use, at least 1.

    Threads of one core count once; so do CPU affinity and a container's quota. Of two kinds of cores only the fast ones
    count: the slow ones would make the others wait.
    """
    return _system.usable_cores()


def _architecture() -> str:
    if sys.platform == "win32":
        name = os.environ.get("PROCESSOR_ARCHITECTURE", "unknown")
    else:
        name = os.uname().machine
    return _ARCHITECTURES.get(name.lower(), name)
