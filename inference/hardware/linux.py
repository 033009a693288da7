"""Processor and memory on Linux, from /proc, /sys and the control groups that this process is in.

Every function takes the directory that stands for "/".
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from inference.hardware.linux_gpus import gpus
from inference.hardware.parts import CPU
from inference.hardware.system_files import number_in, text_in

__all__ = ["cpu", "drivers", "gpus", "memory", "usable_cores"]

ROOT = Path("/")
_CPUS = "sys/devices/system/cpu"


# The drivers ---------------------------------------------------------------------------------------------------------


def drivers(root: Path = ROOT) -> dict[str, str]:
    """Of NVIDIA's and AMD's GPUs. The driver of AMD's that comes with the kernel has the kernel's version."""
    found = {}
    nvidia = (text_in(root / "proc/driver/nvidia/version") or "").partition("\n")[0]
    if match := re.search(r"\s(\d+(?:\.\d+)+)\s", nvidia):
        found["nvidia"] = match[1]
    if (root / "sys/module/amdgpu").is_dir():
        own = text_in(root / "sys/module/amdgpu/version") or text_in(root / "proc/sys/kernel/osrelease")
        found["amdgpu"] = own or "unknown"
    return found


# The processor -------------------------------------------------------------------------------------------------------


def cpu(root: Path = ROOT) -> CPU:
    """The processor. /proc/cpuinfo has one paragraph for each thread; the first says all that is wanted."""
    facts: dict[str, str] = {}
    for line in _beginning(root / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    name = facts.get("model name") or facts.get("Hardware") or facts.get("Model") or "unknown processor"
    features = facts.get("flags") or facts.get("Features") or ""
    usable = usable_cores(root)
    return CPU(name, max(_cores(root, _online(root)), usable), usable, frozenset(features.split()))


def usable_cores(root: Path = ROOT, affinity: Collection[int] | None = None) -> int:
    """Cores with at least one thread in `affinity` (by default this process's), within the control groups' quota."""
    threads = set(_affinity() if affinity is None else affinity) or _online(root)
    # Intel's hybrid processors: the kernel names performance cores "cpu_core".
    fast = threads & _thread_list(text_in(root / "sys/devices/cpu_core/cpus"))
    cores = _cores(root, fast or threads)
    quota = min(_quotas(root), default=cores)
    return max(1, min(cores, int(quota)))


def _beginning(path: Path) -> str:
    """The first bytes only: a file about hundreds of threads takes milliseconds to make."""
    try:
        with path.open("rb") as file:
            return file.read(8192).decode("utf-8", "replace")
    except OSError:
        return ""


def _affinity() -> Collection[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()


def _online(root: Path) -> set[int]:
    return _thread_list(text_in(root / _CPUS / "online")) or set(range(os.cpu_count() or 1))


def _cores(root: Path, threads: Collection[int]) -> int:
    left, cores = set(threads), 0
    while left:
        thread = min(left)
        topology = root / _CPUS / f"cpu{thread}" / "topology"
        siblings = text_in(topology / "core_cpus_list") or text_in(topology / "thread_siblings_list")
        left -= _thread_list(siblings) | {thread}
        cores += 1
    return cores


def _thread_list(text: str | None) -> set[int]:
    """The kernel's notation: "0-3,8"."""
    threads: set[int] = set()
    try:
        for part in (text or "").split(","):
            first, _, last = part.partition("-")
            if first:
                threads.update(range(int(first), int(last or first) + 1))
    except ValueError:
        return set()
    return threads


# Memory --------------------------------------------------------------------------------------------------------------


def memory(root: Path = ROOT) -> tuple[int | None, int | None]:
    """Bytes of main memory, and how many of them could be used without swapping; a control group may have less."""
    table = _table(root / "proc/meminfo")
    total, free = table.get("MemTotal"), table.get("MemAvailable", table.get("MemFree"))
    totals = [] if total is None else [total * 1024]
    frees = [] if free is None else [free * 1024]
    for group in _control_groups(root, "memory"):
        limit = _memory_limit(group)
        # Where there is no limit, version 1 has a number larger than any memory.
        if limit is not None and (total is None or limit < total * 1024):
            totals.append(limit)
            frees.append(max(0, limit - _memory_in_use(group)))
    return min(totals, default=None), min(frees, default=None)


def _table(path: Path) -> dict[str, int]:
    """A file of lines such as "MemTotal: 16 kB" or "inactive_file 16"."""
    numbers: dict[str, int] = {}
    for line in (text_in(path) or "").splitlines():
        key, *rest = line.replace(":", " ").split() or [""]
        if rest and rest[0].isdecimal():
            numbers[key] = int(rest[0])
    return numbers


# Control groups ------------------------------------------------------------------------------------------------------


def _control_groups(root: Path, controller: str) -> Iterator[Path]:
    """The directories of the group that this process is in and of all above it, in version 2 and version 1.

    In a container the path may be one of the host that is not to be seen here; the mount itself is then the group.
    """
    mount = root / "sys/fs/cgroup"
    for line in (text_in(root / "proc/self/cgroup") or "").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        base = mount / controller if controllers else mount
        parts = [part for part in path.split("/") if part]
        if ".." in parts:
            parts = []
        for depth in range(len(parts), -1, -1):
            yield base.joinpath(*parts[:depth])


def _quotas(root: Path) -> Iterator[float]:
    """How many processors' time each control group may use."""
    for group in _control_groups(root, "cpu"):
        limit, _, period = (text_in(group / "cpu.max") or "").partition(" ")
        quota = int(limit) if limit.isdecimal() else number_in(group / "cpu.cfs_quota_us")
        length = int(period) if period.isdecimal() else number_in(group / "cpu.cfs_period_us")
        if quota and length and quota > 0 and length > 0:
            yield quota / length


def _memory_limit(group: Path) -> int | None:
    names = ("memory.max", "memory.high", "memory.limit_in_bytes")
    return min((limit for name in names if (limit := number_in(group / name)) is not None), default=None)


def _memory_in_use(group: Path) -> int:
    """Bytes that the group holds, without page cache and the like, which can be had back."""
    used = number_in(group / "memory.current")
    reclaimable = ["inactive_file", "active_file", "slab_reclaimable"]
    if used is None:
        used = number_in(group / "memory.usage_in_bytes") or 0
        reclaimable = ["total_inactive_file", "total_active_file"]
    table = _table(group / "memory.stat")
    return max(0, used - sum(table.get(kind, 0) for kind in reclaimable))
