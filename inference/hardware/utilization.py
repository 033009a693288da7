"""How busy a device is, as its driver says; of the CPU, what this process makes of it.

A reading never raises, and is None where nobody can tell. Those of a GPU count the work of all processes.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any, TypeAlias

from inference.hardware import darwin
from inference.hardware.linux_gpus import rocm_gpus, visible
from inference.hardware.system_files import number_in

__all__ = ["Gauge", "utilization_gauge"]

Gauge: TypeAlias = Callable[[], float | None]
Load: TypeAlias = Callable[[str], Any]
"""Opens a shared library by its name; OSError if there is none."""

_DEVICE = re.compile(r"([a-z]+)(?::([0-9]{1,4}))?")
_SHORTEST = 0.05
"""Seconds over which the CPU's share is taken at least: Windows counts a process's time in steps of 16 ms."""


def utilization_gauge(device: str) -> Gauge:
    """A function that says how busy `device` is now, 0.0 to 1.0, or None where the platform does not tell.

    It may be called from any thread, several times a second. `device` is a name as backends use it: "cpu", "cuda:0",
    "hip:1", "rocm:0", "metal". Of others nothing is known: no driver tells which card Vulkan calls "vulkan:0".
    """
    name = _DEVICE.fullmatch(device)
    kind, index = (name[1], int(name[2] or 0)) if name else ("", 0)
    match kind:
        case "cpu":
            return cpu_gauge()
        case "cuda":
            return nvidia_gauge(index)
        case "hip" | "rocm":
            return amd_gauge(index)
        case "metal":
            return apple_gauge(index)
    return _unknown


def _unknown() -> None:
    return None


def _share(percent: int | None) -> float | None:
    """Drivers that do not know say 65535 and the like."""
    return percent / 100 if percent is not None and 0 <= percent <= 100 else None


# The processor -------------------------------------------------------------------------------------------------------


def cpu_gauge(
    cores: int | None = None,
    wall_seconds: Callable[[], float] = time.perf_counter,
    cpu_seconds: Callable[[], float] = time.process_time,
) -> Gauge:
    """The share of its cores (see `physical_cores`) that this process, with all its threads, kept busy since the last
    reading, or since the gauge was made. A reading that follows within 50 ms repeats the last one; None if none was.

    Cores count, not their hardware threads: engines run one thread on each. Busy second threads and the slow cores of a
    hybrid processor come on top, and the share stays 1.0.
    """
    from inference.hardware import physical_cores  # Late, since that module imports this one.

    usable = cores or physical_cores()
    lock, wall, busy = Lock(), wall_seconds(), cpu_seconds()
    share: float | None = None

    def read() -> float | None:
        nonlocal wall, busy, share
        with lock:
            wall_now, busy_now = wall_seconds(), cpu_seconds()
            if wall_now - wall >= _SHORTEST:
                share = min(1.0, max(0.0, (busy_now - busy) / ((wall_now - wall) * usable)))
                wall, busy = wall_now, busy_now
            return share

    return read


# AMD -----------------------------------------------------------------------------------------------------------------


def amd_gauge(index: int, root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> Gauge:
    """The kernel driver's file, in which the card's firmware says how active it is. With some drivers a card that holds
    a process's queues counts as wholly busy, whether they have work or not."""
    device = _rocm_device(index, root, environment)
    return _unknown if device is None else lambda: _share(number_in(device / "gpu_busy_percent"))


def _rocm_device(index: int, root: Path, environment: Mapping[str, str]) -> Path | None:
    """The directory of the GPU that HIP in this process calls `index`: the environment may hide some from ROCm, and
    some of the rest from HIP."""
    found = rocm_gpus(root)
    seen = visible(found, environment)
    if index >= len(seen):
        return None
    # The partitions of a card share one file, which tells nothing about each.
    alone = sum(gpu.folder == seen[index].folder for gpu in found) == 1
    return seen[index].folder if alone else None


# Shared libraries ----------------------------------------------------------------------------------------------------


def _load(name: str) -> Any:
    import ctypes

    return ctypes.CDLL(name)


def _late(open_source: Callable[[], Gauge | None]) -> Gauge:
    """A gauge whose source is opened by a reading: once, or again and again while it says None, "not yet"."""
    lock = Lock()
    source: Gauge | None = None

    def read() -> float | None:
        nonlocal source
        with lock:
            if source is None:
                try:
                    source = open_source()
                except (OSError, AttributeError):  # There is no such library, or no such function in it.
                    source = _unknown
        return source() if source else None

    return read


# NVIDIA --------------------------------------------------------------------------------------------------------------


@cache
def nvidia_gauge(index: int, load: Load = _load) -> Gauge:
    """NVML's figure: the share of the driver's last sampling period, up to a second, in which a kernel ran.

    None until the engine has started CUDA, since only CUDA knows which card it calls `index`: it puts the fastest first
    or obeys its environment, where NVML goes by the bus.
    """

    def open_source() -> Gauge | None:
        import ctypes

        windows = sys.platform == "win32"
        cuda = load("nvcuda.dll" if windows else "libcuda.so.1")
        nvml = load("nvml.dll" if windows else "libnvidia-ml.so.1")
        device, address, card = ctypes.c_int(), ctypes.create_string_buffer(32), ctypes.c_void_p()
        if cuda.cuDeviceGet(ctypes.byref(device), ctypes.c_int(index)):
            return None
        if cuda.cuDeviceGetPCIBusId(address, ctypes.c_int(len(address)), device):
            return _unknown
        if nvml.nvmlInit_v2() or nvml.nvmlDeviceGetHandleByPciBusId_v2(address, ctypes.byref(card)):
            return _unknown
        rates_of = nvml.nvmlDeviceGetUtilizationRates

        def read() -> float | None:
            rates = (ctypes.c_uint * 2)()  # nvmlUtilization_t: of the GPU, of its memory
            return None if rates_of(card, ctypes.byref(rates)) else _share(rates[0])

        return read

    return _late(open_source)


# Apple ---------------------------------------------------------------------------------------------------------------

_FRAMEWORKS = "/System/Library/Frameworks"
_UTF8 = 0x08000100
"""kCFStringEncodingUTF8."""
_SINT64 = 4
"""kCFNumberSInt64Type."""


@cache
def apple_gauge(index: int, load: Load = _load) -> Gauge:
    """The figure that the GPU's driver keeps in the I/O registry, where `ioreg` finds it too; but `ioreg` is a process,
    which costs milliseconds each time, and this a few calls."""

    def open_source() -> Gauge:
        iokit, core = _frameworks(load)
        # Macs that have several accelerators have none of Apple's.
        if index >= len(darwin.gpus()):
            return _unknown
        # The dictionary that IOServiceMatching makes is released by the call that it is given to.
        gpu = iokit.IOServiceGetMatchingService(0, iokit.IOServiceMatching(b"IOAccelerator"))
        # The service and the two keys are kept: there is one gauge in the process.
        statistics = core.CFStringCreateWithCString(None, b"PerformanceStatistics", _UTF8)
        utilization = core.CFStringCreateWithCString(None, b"Device Utilization %", _UTF8)
        if not (gpu and statistics and utilization):
            return _unknown

        def read() -> float | None:
            table = iokit.IORegistryEntryCreateCFProperty(gpu, statistics, None, 0)
            if not table:
                return None
            try:
                return _share(_number(core, table, utilization))
            finally:
                core.CFRelease(table)

        return read

    return _late(open_source)


def _number(core: Any, table: int, key: int) -> int | None:
    """A whole number in a CFDictionary. Core Foundation does not survive being given another type than it expects."""
    import ctypes

    if core.CFGetTypeID(table) != core.CFDictionaryGetTypeID():
        return None
    entry = core.CFDictionaryGetValue(table, key)  # The dictionary keeps it.
    if not entry or core.CFGetTypeID(entry) != core.CFNumberGetTypeID():
        return None
    number = ctypes.c_int64()
    return number.value if core.CFNumberGetValue(entry, _SINT64, ctypes.byref(number)) else None


def _frameworks(load: Load) -> tuple[Any, Any]:
    """IOKit and Core Foundation, with the types of what is called: ctypes would take every pointer for an int."""
    from ctypes import c_char_p, c_long, c_ubyte, c_uint32, c_ulong, c_void_p

    def declare(function: Any, result: Any, *arguments: Any) -> None:
        function.restype, function.argtypes = result, arguments

    iokit, core = (load(f"{_FRAMEWORKS}/{name}.framework/{name}") for name in ("IOKit", "CoreFoundation"))
    declare(iokit.IOServiceMatching, c_void_p, c_char_p)
    declare(iokit.IOServiceGetMatchingService, c_uint32, c_uint32, c_void_p)
    declare(iokit.IORegistryEntryCreateCFProperty, c_void_p, c_uint32, c_void_p, c_void_p, c_uint32)
    declare(core.CFStringCreateWithCString, c_void_p, c_void_p, c_char_p, c_uint32)
    declare(core.CFGetTypeID, c_ulong, c_void_p)
    declare(core.CFDictionaryGetTypeID, c_ulong)
    declare(core.CFDictionaryGetValue, c_void_p, c_void_p, c_void_p)
    declare(core.CFNumberGetTypeID, c_ulong)
    declare(core.CFNumberGetValue, c_ubyte, c_void_p, c_long, c_void_p)
    declare(core.CFRelease, None, c_void_p)
    return iokit, core
