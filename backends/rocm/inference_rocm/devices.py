"""The AMD GPUs that the backend `rocm` can use here, found out without importing torch or Triton."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from inference.errors import BackendUnavailableError
from inference.hardware import machine
from inference.hardware.linux_gpus import RocmGPU, gpus, rocm_gpus, visible
from inference.options import LoadOptions
from inference.types import Availability
from inference_rocm.gpu.targets import COMPILED, version

__all__ = [
    "INTERPRETER",
    "RocmDevice",
    "availabilities",
    "chosen",
    "device_for",
    "devices",
    "interpreting",
    "rocm_torch",
]

INTERPRETER = "interpreter"
"""The name of the device that is Triton's interpreter."""
ROOT = Path("/")

LEAST_TRITON = (3, 7)
"""What the kernels were proved with. Triton 3.6, which torch 2.11 brings, compiles some of them with registers that
spill."""
_INSTALL = "pip install 'torch>=2.12' --index-url https://download.pytorch.org/whl/rocm7.2"
_INSTALL_REST = "pip install 'native-inference[gguf]'"
_GROUPS = "add yourself to the groups render and video, and log in again"
_CONTAINER = "load the kernel's driver amdgpu; start a container with --device=/dev/kfd --device=/dev/dri"
_VARIABLES = ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")
_TRUE = frozenset({"1", "true", "on", "yes", "y"})
"""What Triton takes for yes."""


@dataclass(frozen=True, slots=True)
class RocmDevice:
    """A GPU that this process sees."""

    index: int
    """PyTorch's: the GPU is its "cuda:{index}"."""
    name: str
    target: str
    """LLVM's name of it: "gfx1100"."""
    memory_bytes: int | None
    free_bytes: int | None
    """Of the memory, what no process holds now; None where the driver does not say."""
    integrated: bool
    """Whether it shares the machine's memory."""
    file: Path | None
    """What a program has to open to use it, if that is known."""

    @property
    def device(self) -> str:
        """The name that `device=` takes."""
        return f"rocm:{self.index}"

    @property
    def proved(self) -> bool:
        """Whether its kind is as new as those that every kernel is compiled for: CDNA 2, RDNA 2 and later."""
        return self.target in COMPILED or version(self.target) >= (10, 3)


def devices(root: Path = ROOT, environment: Mapping[str, str] = os.environ) -> list[RocmDevice]:
    """The GPUs that this process sees, in PyTorch's order. Partitions of a card are taken to have equal shares."""
    found = rocm_gpus(root)
    return [_device(index, gpu, _partitions(gpu, found)) for index, gpu in enumerate(visible(found, environment))]


def _partitions(gpu: RocmGPU, found: Sequence[RocmGPU]) -> int:
    return sum(other.folder == gpu.folder for other in found)


def _device(index: int, gpu: RocmGPU, partitions: int) -> RocmDevice:
    total, used = gpu.memory("total"), gpu.memory("used")
    free = None if total is None or used is None else max(0, total - used) // partitions
    memory = None if total is None else total // partitions
    return RocmDevice(index, gpu.name, gpu.target, memory, free, gpu.integrated, gpu.device_file)


def chosen(found: Sequence[RocmDevice]) -> list[RocmDevice]:
    """The best first: cards before GPUs of processors, then by free memory, then in PyTorch's order."""
    return sorted(found, key=lambda each: (each.integrated, -(each.free_bytes or 0), each.index))


# PyTorch -------------------------------------------------------------------------------------------------------------


def rocm_torch() -> str | None:
    """The version of ROCm ("6.4.43484") that the installed torch is built for; None if it is built for something else,
    or there is none."""
    return _built_for("hip")


def _built_for(system: str) -> str | None:
    """A line of torch's version file: "hip", "cuda" or "__version__"."""
    folder = _package("torch")
    return None if folder is None else _text_set(folder / "version.py", system)


def _text_set(file: Path, name: str) -> str | None:
    """The text that a module gives a name, read without running it."""
    try:
        text = file.read_text(encoding="utf-8")
    except OSError:
        return None
    match = re.search(rf"^{name}\b[^=\n]*=\s*['\"]([^'\"]+)['\"]", text, re.MULTILINE)
    return match[1] if match else None


def _package(name: str) -> Path | None:
    """Where a package is, found without importing it."""
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec and spec.origin else None


def interpreting(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether Triton computes kernels on the CPU in this process."""
    return environment.get("TRITON_INTERPRET", "").lower() in _TRUE


# What can be used ----------------------------------------------------------------------------------------------------


def availabilities(
    root: Path = ROOT, environment: Mapping[str, str] = os.environ, platform: str = sys.platform
) -> list[Availability]:
    """An entry for each AMD GPU, the best first; and one for the interpreter where the environment asks for it."""
    if platform != "linux":
        entries = [_absent("AMD GPU", "the backend runs on Linux alone.")]
    else:
        lack = _lack(environment)
        found = chosen(devices(root, environment))
        entries = [_entry(each, lack, root, alone=len(found) == 1) for each in found]
        entries += _hidden(root, environment)
        entries += [
            _absent(gpu.name, "the kernel's driver for computing, KFD, does not know it.", _CONTAINER, gpu.memory_bytes)
            for gpu in gpus(root)
            if gpu.vendor == "amd" and not gpu.driver
        ]
        entries = entries or [_absent("AMD GPU", "there is no AMD GPU in this machine.")]
    return entries + _interpreter(environment)


def device_for(options: LoadOptions) -> Availability:
    """The device asked for; without a wish, the best of those that may be chosen by themselves.

    Raises:
        BackendUnavailableError: it cannot be used, or none can without being asked for.
    """
    entries = availabilities()
    if options.device is None:
        entry = next((each for each in entries if each.available and each.automatic), entries[0])
        if entry.available and not entry.automatic:
            raise BackendUnavailableError(
                f"Backend 'rocm' chooses no device by itself here. {entry.description}: {entry.reason} "
                f'Ask for it with device="{entry.device}".'
            )
    else:
        named = [each for each in entries if each.device == options.device]
        if not named:
            names = ", ".join(dict.fromkeys(each.device for each in entries))
            raise BackendUnavailableError(f"Backend 'rocm' has no device {options.device!r}. Its devices: {names}.")
        entry = named[0]
    if not entry.available:
        fix = f" Try: {entry.fix}" if entry.fix else ""
        raise BackendUnavailableError(f"Backend 'rocm' cannot run on {entry.description}: {entry.reason}{fix}")
    return entry


def _lack(environment: Mapping[str, str]) -> tuple[str, str] | None:
    """What of the software is missing for every GPU, and the cure; None if nothing is."""
    torch = _package("torch")
    if torch is None:
        return "the package torch is not installed.", _INSTALL
    if rocm_torch() is None:
        cuda = _built_for("cuda")
        kind = f"NVIDIA's CUDA {cuda}" if cuda else "the CPU alone"
        return f"the installed torch {_built_for('__version__') or ''} is built for {kind}.", _INSTALL
    triton = _package("triton")
    if triton is None:
        return "the package triton, which comes with a torch for ROCm, is not installed.", _INSTALL
    if not (triton / "backends" / "amd").is_dir():
        return "the installed triton cannot compile for AMD GPUs.", f"{_INSTALL} --force-reinstall"
    found = _text_set(triton / "__init__.py", "__version__") or "of no version"
    if tuple(map(int, re.findall(r"\d+", found)[:2])) < LEAST_TRITON:
        least = ".".join(map(str, LEAST_TRITON))
        return f"the installed triton {found} is older than {least}, which the kernels need.", f"{_INSTALL} --upgrade"
    missing = [name for name in ("numpy", "tokenizers") if _package(name) is None]
    if missing:
        return f"the package {', '.join(missing)} is not installed.", _INSTALL_REST
    if interpreting(environment):
        return "TRITON_INTERPRET is set, so that kernels would be computed on the CPU.", "unset TRITON_INTERPRET"
    return None


def _barred(root: Path, file: Path | None) -> tuple[str, str] | None:
    """Why this process may not use the driver, and the cure; None if it may."""
    kfd = root / "dev/kfd"
    if not kfd.exists():
        return f"there is no /{kfd.relative_to(root)}.", _CONTAINER
    for each in (kfd, file):
        if each is not None and not os.access(each, os.R_OK | os.W_OK):
            return f"this user may not open /{each.relative_to(root)}.", _GROUPS
    return None


def _entry(device: RocmDevice, lack: tuple[str, str] | None, root: Path, *, alone: bool) -> Availability:
    name = f"{device.name}, {device.target}"
    trouble = lack or _barred(root, device.file)
    if trouble:
        return Availability(device.device, name, False, False, *trouble, device.memory_bytes)
    reason = f"PyTorch for ROCm {rocm_torch()} runs on it"
    automatic = device.proved and not device.integrated
    if device.integrated:
        reason += ", when it is asked for: it is a part of the processor and shares the machine's memory"
        reason += ", and is the only AMD GPU here." if alone else "."
    elif not device.proved:
        reason += ", when it is asked for."
    else:
        reason += "."
    if not device.proved:
        reason += f" The kernels are proved for none so old as {device.target}."
    return Availability(device.device, name, True, automatic, reason, None, device.memory_bytes)


def _hidden(root: Path, environment: Mapping[str, str]) -> list[Availability]:
    """GPUs that are here, but not for this process."""
    found = rocm_gpus(root)
    shown = visible(found, environment)
    set_ = [f"{name}={environment[name]}" for name in _VARIABLES if environment.get(name) is not None]
    entries = []
    for gpu in found:
        if gpu in shown:
            continue
        name = f"{gpu.name}, {gpu.target}"
        if gpu.device_file is not None and not gpu.device_file.exists():
            reason, fix = f"there is no /{gpu.device_file.relative_to(root)}.", _CONTAINER
        else:
            reason, fix = f"the environment hides it: {', '.join(set_)}.", f"unset {' '.join(_VARIABLES)}"
        entries.append(_absent(name, reason, fix, gpu.memory("total")))
    return entries


def _absent(name: str, reason: str, fix: str | None = None, memory: int | None = None) -> Availability:
    return Availability("rocm", name, False, False, reason, fix, memory)


def _interpreter(environment: Mapping[str, str]) -> list[Availability]:
    if not interpreting(environment) or _package("torch") is None or _package("triton") is None:
        return []
    here = machine()
    reason = "Triton's interpreter computes on the CPU, thousands of times slower: for proofs."
    return [Availability(INTERPRETER, here.cpu.name, True, False, reason, None, here.memory_bytes)]
