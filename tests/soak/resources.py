"""What a process holds, and whether it grew."""

from __future__ import annotations

import gc
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Self

__all__ = ["Resources"]

STATUS, DESCRIPTORS = Path("/proc/self/statm"), Path("/proc/self/fd")
PAGE = 4096
RENDERERS = 4
"""Processes that render templates, at most: each has two pipes and a file, and a thread that watches the time while it
renders."""
MORE_MEMORY = 24 * 2**20
"""Bytes that a heap may scatter by."""


@dataclass(frozen=True)
class Resources:
    """At one time. 0 where the system does not tell."""

    memory: int
    """Bytes of the resident set."""
    threads: int
    descriptors: int

    @classmethod
    def now(cls) -> Self:
        gc.collect()
        memory = int(STATUS.read_text().split()[1]) * PAGE if STATUS.exists() else 0
        return cls(memory, threading.active_count(), len(list(DESCRIPTORS.iterdir())) if DESCRIPTORS.is_dir() else 0)

    def beyond(self, before: Self, *, memory: int = MORE_MEMORY) -> list[str]:
        """What is more than before, beyond what may be."""
        found = []
        if self.memory - before.memory > memory:
            found.append(f"memory grew by {(self.memory - before.memory) / 2**20:.0f} MiB")
        if self.threads > before.threads + RENDERERS:
            found.append(f"threads grew from {before.threads} to {self.threads}")
        if self.descriptors > before.descriptors + 3 * RENDERERS:
            found.append(f"file descriptors grew from {before.descriptors} to {self.descriptors}")
        return found
