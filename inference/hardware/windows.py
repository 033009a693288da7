"""Windows, by its C API and the registry."""

from __future__ import annotations

import ctypes
import struct
import sys

from inference.hardware.parts import CPU, GPU, Vendor

assert sys.platform == "win32"

import winreg  # noqa: E402 (there is no such module elsewhere)

__all__ = ["cpu", "drivers", "gpus", "memory", "usable_cores"]

_PROCESSOR = r"HARDWARE\DESCRIPTION\System\CentralProcessor\0"
_DISPLAYS = r"SYSTEM\CurrentControlSet\Control\Class\{4d36e968-e325-11ce-bfc1-08002be10318}"
_VENDORS: dict[str, Vendor] = {"ven_10de": "nvidia", "ven_1002": "amd", "ven_8086": "intel"}
_FEATURES = {19: "neon", 38: "sse4_2", 39: "avx", 40: "avx2", 41: "avx512f", 43: "asimddp"}
"""Numbers of IsProcessorFeaturePresent, by the names that Linux has for them."""
_PROCESSOR_CORE = 0
"""RelationProcessorCore of GetLogicalProcessorInformation."""


def cpu() -> CPU:
    present = ctypes.windll.kernel32.IsProcessorFeaturePresent
    cores = _cores()
    name = str(_registry(_PROCESSOR, "ProcessorNameString") or "unknown processor").strip()
    return CPU(name, cores, cores, frozenset(text for number, text in _FEATURES.items() if present(number)))


def gpus() -> tuple[GPU, ...]:
    """The display adapters that the registry lists; it keeps the memory of real cards in a value of 64 bits."""
    found: list[GPU] = []
    for number in range(16):
        key = rf"{_DISPLAYS}\{number:04}"
        device = str(_registry(key, "MatchingDeviceId") or "").lower()
        vendor = next((vendor for text, vendor in _VENDORS.items() if text in device), None)
        if vendor is not None:
            size = _registry(key, "HardwareInformation.qwMemorySize")
            index = sum(gpu.vendor == vendor for gpu in found)
            name = str(_registry(key, "DriverDesc") or f"{vendor} GPU")
            found.append(GPU(vendor, name, size if isinstance(size, int) else None, None, index))
    return tuple(found)


def drivers() -> dict[str, str]:
    """Of the display adapters that the registry lists, by their names."""
    keys = [rf"{_DISPLAYS}\{number:04}" for number in range(16)]
    found = {str(_registry(key, "DriverDesc") or ""): str(_registry(key, "DriverVersion") or "") for key in keys}
    return {name: version for name, version in found.items() if name and version}


def usable_cores() -> int:
    return _cores()


def memory() -> tuple[int | None, int | None]:
    """Total and available bytes, by GlobalMemoryStatusEx."""
    layout = struct.Struct("<IIQQQQQQQ")
    status = ctypes.create_string_buffer(layout.pack(layout.size, *[0] * 8), layout.size)
    if not ctypes.windll.kernel32.GlobalMemoryStatusEx(status):
        return None, None
    _, _, total, available, *_ = layout.unpack(status.raw)
    return total, available


def _cores() -> int:
    """Cores with a thread that this process may use, by GetLogicalProcessorInformation."""
    kernel = ctypes.windll.kernel32
    kernel.GetCurrentProcess.restype = ctypes.c_void_p
    allowed, whole = ctypes.c_size_t(0), ctypes.c_size_t(0)
    process = ctypes.c_void_p(kernel.GetCurrentProcess())
    kernel.GetProcessAffinityMask(process, ctypes.byref(allowed), ctypes.byref(whole))
    size = ctypes.c_uint32(0)
    kernel.GetLogicalProcessorInformation(None, ctypes.byref(size))
    data = ctypes.create_string_buffer(size.value)
    if not kernel.GetLogicalProcessorInformation(data, ctypes.byref(size)):
        return 1
    entry = struct.Struct("<QI20x")
    whole_entries = data.raw[: size.value - size.value % entry.size]
    masks = [mask for mask, relation in entry.iter_unpack(whole_entries) if relation == _PROCESSOR_CORE]
    return max(1, sum(bool(mask & (allowed.value or mask)) for mask in masks))


def _registry(key: str, name: str) -> object:
    try:
        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, key) as handle:
            return winreg.QueryValueEx(handle, name)[0]
    except OSError:
        return None
