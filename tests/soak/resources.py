"""What a process holds, and whether it grew."""

from __future__ import annotations

import gc
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

__all__ = ["Resources"]

STATUS, DESCRIPTORS, TASKS = Path("/proc/self/statm"), Path("/proc/self/fd"), Path("/proc/self/task")
PAGE = 4096
SETTLE = 0.3
"""Seconds after which the system no longer lists threads that have ended."""
MORE_MEMORY = 24 * 2**20
"""Bytes that a heap may scatter by."""


@dataclass(frozen=True)
class Resources:
    """At one time. 0 where the system does not tell."""

    memory: int
    """Bytes of the resident set."""
    threads: int
    """Those of C libraries too."""
    descriptors: int

    @classmethod
    def now(cls) -> Self:
        gc.collect()
        time.sleep(SETTLE)
        memory = int(STATUS.read_text().split()[1]) * PAGE if STATUS.exists() else 0
        threads = len(list(TASKS.iterdir())) if TASKS.is_dir() else threading.active_count()
        return cls(memory, threads, len(list(DESCRIPTORS.iterdir())) if DESCRIPTORS.is_dir() else 0)

    def beyond(self, before: Self, *, memory: int = MORE_MEMORY, descriptors: int = 0) -> list[str]:
        """What is more than before, beyond what may be."""
        found = []
        if self.memory - before.memory > memory:
            found.append(f"memory grew by {(self.memory - before.memory) / 2**20:.0f} MiB")
        if self.threads > before.threads:
            found.append(f"threads grew from {before.threads} to {self.threads}")
        if self.descriptors > before.descriptors + descriptors:
            found.append(f"file descriptors grew from {before.descriptors} to {self.descriptors}")
        return found
