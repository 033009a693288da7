"""Which devices llama.cpp can use here, found out without loading it."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from inference.hardware import GPU, Machine, machine
from inference.types import Availability

__all__ = ["ggml_name", "library_folder", "probe"]

_INSTALL = "pip install 'native-inference[llama-cpp]'"


@dataclass(frozen=True, slots=True)
class _Family:
    """A kind of GPU back end that llama.cpp can be built with."""

    device: str
    vendor: str
    library: str
    """The shared library that a build with it has."""
    ggml: str
    """What ggml calls its devices; a number follows."""
    flag: str
    """The CMake option that builds it."""


_FAMILIES = (
    _Family("cuda", "nvidia", "ggml-cuda", "CUDA", "GGML_CUDA"),
    _Family("hip", "amd", "ggml-hip", "ROCm", "GGML_HIP"),
    _Family("metal", "apple", "ggml-metal", "MTL", "GGML_METAL"),
)


def ggml_name(device: str) -> str | None:
    """ggml's name of a device, None for the CPU: "cuda:1" is "CUDA1"."""
    kind, _, index = device.partition(":")
    family = next((family for family in _FAMILIES if family.device == kind), None)
    return f"{family.ggml}{index or 0}" if family else None


def library_folder() -> Path | None:
    """Where llama-cpp-python keeps its shared libraries, or None if it is not installed. Does not import it."""
    spec = importlib.util.find_spec("llama_cpp")
    return Path(spec.origin).parent / "lib" if spec and spec.origin else None


def probe() -> list[Availability]:
    """The GPUs that this build and this machine share come first, then the CPU, then GPUs that the build lacks."""
    return list(_probed(machine_once(), library_folder()))


machine_once = cache(machine)
"""Processors and GPUs do not come and go while a program runs, and a load asks for them three times."""


@cache
def _probed(here: Machine, folder: Path | None) -> tuple[Availability, ...]:
    if folder is None:
        reason = "the package llama-cpp-python is not installed."
        return (_cpu(here, available=False, reason=reason, fix=_INSTALL),)
    built = {path.name.split(".")[0].removeprefix("lib") for path in folder.glob("*ggml*")}
    if not built:
        reason = f"llama-cpp-python is installed, but its shared libraries are missing from {folder}."
        fix = "pip install --force-reinstall --no-cache-dir llama-cpp-python"
        return (_cpu(here, available=False, reason=reason, fix=fix),)
    gpus = [(family, gpu) for family in _FAMILIES for gpu in here.gpus if gpu.vendor == family.vendor]
    usable = [_gpu(family, gpu, built=True) for family, gpu in gpus if family.library in built and gpu.driver]
    lacking = [
        _gpu(family, gpu, built=family.library in built)
        for family, gpu in gpus
        if family.library not in built or not gpu.driver
    ]
    cpu = _cpu(here, available=True, reason="llama.cpp is installed and runs on every CPU.", fix=None)
    return (*usable, cpu, *lacking)


def _cpu(here: Machine, *, available: bool, reason: str, fix: str | None) -> Availability:
    description = f"{here.cpu.name}, {here.cpu.usable_cores} cores"
    return Availability("cpu", description, available, available, reason, fix, here.memory_bytes)


def _gpu(family: _Family, gpu: GPU, *, built: bool) -> Availability:
    if not gpu.driver:
        reason, fix = "its driver is not loaded.", f"install the {gpu.vendor.upper()} driver"
    elif built:
        reason, fix = f"llama.cpp is built for it ({family.library}).", None
    else:
        reason = f"llama.cpp is installed without {family.library}, and so cannot use it."
        fix = f'CMAKE_ARGS="-D{family.flag}=on" pip install --force-reinstall --no-cache-dir llama-cpp-python'
    device = f"{family.device}:{gpu.index}"
    usable = built and gpu.driver
    return Availability(device, gpu.name, usable, usable, reason, fix, gpu.memory_bytes)
