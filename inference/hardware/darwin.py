"""macOS, by `sysctlbyname`."""

from __future__ import annotations

import mmap

from inference.hardware.parts import CPU, GPU

__all__ = ["cpu", "drivers", "gpus", "memory", "usable_cores"]

_ARM_FEATURES = ("FEAT_FP16", "FEAT_DotProd", "FEAT_BF16", "FEAT_I8MM", "FEAT_SME", "FEAT_SME2")


def cpu() -> CPU:
    usable = usable_cores()
    arm = {name for name in _ARM_FEATURES if _number(f"hw.optional.arm.{name}")}
    intel = f"{_text('machdep.cpu.features')} {_text('machdep.cpu.leaf7_features')}".lower().split()
    name = _text("machdep.cpu.brand_string") or "unknown processor"
    return CPU(name, max(_number("hw.physicalcpu") or 1, usable), usable, frozenset(arm.union(intel)))


def gpus() -> tuple[GPU, ...]:
    """The GPU of an Apple chip. Those in Intel's machines run no engine here."""
    if not _number("hw.optional.arm64"):
        return ()
    return (GPU("apple", f"{_text('machdep.cpu.brand_string')} GPU", _number("hw.memsize"), True, 0),)


def drivers() -> dict[str, str]:
    """Metal comes with the system."""
    version = _text("kern.osproductversion")
    return {"macos": version} if version else {}


def memory() -> tuple[int | None, int | None]:
    """Bytes of main memory, which an Apple GPU shares, and of pages that are free, hold files or may be thrown away."""
    pages = [_number(f"vm.page_{kind}_count") for kind in ("free", "pageable_external", "purgeable")]
    known = [number for number in pages if number is not None]
    # Under Rosetta the kernel's pages, which these numbers count, are larger than the process's own.
    available = sum(known) * (_number("vm.pagesize") or mmap.PAGESIZE) if known else None
    return _number("hw.memsize"), available


def usable_cores() -> int:
    """Performance cores; all cores where there is one kind."""
    return max(1, _number("hw.perflevel0.physicalcpu") or _number("hw.physicalcpu") or 1)


def _number(name: str) -> int | None:
    value = sysctl(name)
    return None if value is None else int.from_bytes(value, "little")


def _text(name: str) -> str:
    return (sysctl(name) or b"").rstrip(b"\x00").decode("utf-8", "replace")


def sysctl(name: str) -> bytes | None:
    """The raw value of one of the system's variables, None if it has no such variable."""
    import ctypes

    call = ctypes.CDLL(None).sysctlbyname
    call.argtypes = [
        ctypes.c_char_p,
        ctypes.c_void_p,
        ctypes.POINTER(ctypes.c_size_t),
        ctypes.c_void_p,
        ctypes.c_size_t,
    ]
    size = ctypes.c_size_t(0)
    if call(name.encode(), None, ctypes.byref(size), None, 0) != 0:
        return None
    value = ctypes.create_string_buffer(size.value)
    if call(name.encode(), value, ctypes.byref(size), None, 0) != 0:
        return None
    return value.raw[: size.value]
