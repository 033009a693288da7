"""GPUs on Linux: from the PCI bus, with what NVIDIA's and AMD's kernel drivers add to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Literal

from inference.hardware.parts import GPU, Vendor
from inference.hardware.system_files import names_in, number_in, text_in

__all__ = ["RocmGPU", "gpus", "rocm_gpus", "visible"]

_PCI = "sys/bus/pci/devices"
_NVIDIA = "proc/driver/nvidia/gpus"
_KFD = "sys/class/kfd/kfd/topology/nodes"
_VENDORS: dict[int, Vendor] = {0x10DE: "nvidia", 0x1002: "amd", 0x8086: "intel"}

_DISPLAY, _ACCELERATOR = 0x03, 0x12
"""PCI base classes; AMD's Instinct cards are accelerators."""

_INTEGRATED_AMD = frozenset(
    f"gfx{number:x}"
    for number in (0x902, 0x909, 0x90C, 0x1013, 0x1033, 0x1035, 0x1036, 0x1037, 0x1103, 0x1150, 0x1151, 0x1152, 0x1153)
)
"""AMD's GPUs that sit in a processor, by the name that LLVM's AMDGPU target gives them."""


def gpus(root: Path = Path("/")) -> tuple[GPU, ...]:
    """Every GPU of a vendor that some engine could use, those of one vendor numbered from 0."""
    on_bus = dict(_on_bus(root))
    found = [*_nvidia(root, on_bus), *_amd(root, on_bus), *_intel(root, on_bus)]
    numbers: dict[Vendor, Iterator[int]] = {vendor: count() for vendor in _VENDORS.values()}
    return tuple(replace(gpu, index=next(numbers[gpu.vendor])) for gpu in found)


def _on_bus(root: Path) -> Iterator[tuple[str, Vendor]]:
    """PCI address and vendor of each GPU on the bus, in the bus's order."""
    for address in names_in(root / _PCI):
        kind = (number_in(root / _PCI / address / "class") or 0) >> 16
        if kind in (_DISPLAY, _ACCELERATOR):
            vendor = _VENDORS.get(number_in(root / _PCI / address / "vendor") or 0)
            if vendor is not None and (kind == _DISPLAY or vendor == "amd"):
                yield address, vendor


def _name(root: Path, address: str, maker: str) -> str:
    """What a GPU is called whose driver does not name it: by its PCI ids."""
    vendor, device = (number_in(root / _PCI / address / part) or 0 for part in ("vendor", "device"))
    return f"{maker} GPU {vendor:04x}:{device:04x}"


# NVIDIA --------------------------------------------------------------------------------------------------------------


def _nvidia(root: Path, on_bus: dict[str, Vendor]) -> list[GPU]:
    driven = names_in(root / _NVIDIA)
    addresses = driven + [address for address, vendor in on_bus.items() if vendor == "nvidia" and address not in driven]
    found = []
    for address in addresses:
        lines = (text_in(root / _NVIDIA / address / "information") or "").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("Model:")), "")
        name = model or _name(root, address, "NVIDIA")
        found.append(GPU("nvidia", name, None, None, 0, driver=address in driven))
    # Under WSL the GPU is not on the bus; Windows lends its driver through this library.
    if not found and (root / "dev/dxg").exists() and (root / "usr/lib/wsl/lib/libcuda.so.1").exists():
        found.append(GPU("nvidia", "NVIDIA GPU of the Windows host", None, None, 0))
    return found


# AMD -----------------------------------------------------------------------------------------------------------------


def _amd(root: Path, on_bus: dict[str, Vendor]) -> list[GPU]:
    """ROCm numbers GPUs in the order of KFD's nodes; those that KFD does not know cannot compute."""
    computing = rocm_gpus(root)
    known = {gpu.folder.name for gpu in computing}
    rest = [address for address, vendor in on_bus.items() if vendor == "amd" and address not in known]
    return [
        *(GPU("amd", gpu.name, gpu.memory("total"), gpu.integrated, 0) for gpu in computing),
        *(_amd_gpu(root, address) for address in rest),
    ]


def _amd_gpu(root: Path, address: str) -> GPU:
    device = root / _PCI / address
    name = text_in(device / "product_name") or _name(root, address, "AMD")
    return GPU("amd", name, number_in(device / "mem_info_vram_total"), None, 0, driver=False)


@dataclass(frozen=True, slots=True)
class RocmGPU:
    """A GPU, or a partition of one, that KFD, the driver below ROCm, knows."""

    folder: Path
    """What the kernel shows of it; partitions of one card have one."""
    target: str
    """LLVM's name: "gfx1100"."""
    uuid: str
    """As ROCm writes it: "GPU-4b2c1a9f8d3e6f7a"; "" where it has none."""
    device_file: Path | None
    """What a program must be able to open to use it; None where the kernel does not say."""

    @property
    def name(self) -> str:
        return text_in(self.folder / "product_name") or f"AMD GPU {self.target}"

    @property
    def integrated(self) -> bool:
        return self.target in _INTEGRATED_AMD

    def memory(self, what: Literal["total", "used"]) -> int | None:
        """Bytes of the whole card; None where the driver does not say."""
        own = number_in(self.folder / f"mem_info_vram_{what}")
        if not self.integrated or own is None:
            return own
        # The part that the firmware set aside, and what the driver may map of main memory beside it.
        return own + (number_in(self.folder / f"mem_info_gtt_{what}") or 0)


def rocm_gpus(root: Path = Path("/")) -> list[RocmGPU]:
    """In KFD's order, which is ROCm's. A card that is cut into partitions is there several times."""
    found = []
    for node in sorted((name for name in names_in(root / _KFD) if name.isdecimal()), key=int):
        lines = (text_in(root / _KFD / node / "properties") or "").splitlines()
        facts = {key: int(value) for key, _, value in (line.partition(" ") for line in lines) if value.isdecimal()}
        if facts.get("simd_count") and facts.get("gfx_target_version"):
            place, version = facts.get("location_id", 0), facts["gfx_target_version"]
            address = f"{facts.get('domain', 0):04x}:{place >> 8 & 255:02x}:{place >> 3 & 31:02x}.{place & 7}"
            target = f"gfx{version // 10_000}{version // 100 % 100:x}{version % 100:x}"
            number, minor = facts.get("unique_id"), facts.get("drm_render_minor")
            uuid = f"GPU-{number:016x}" if number else ""
            file = root / f"dev/dri/renderD{minor}" if minor else None
            found.append(RocmGPU(root / _PCI / address, target, uuid, file))
    return found


def visible(gpus: Sequence[RocmGPU], environment: Mapping[str, str]) -> list[RocmGPU]:
    """Those of ROCm's GPUs that a program sees, in the order in which HIP and PyTorch number them.

    ROCm passes over those whose device file is not there, as in a container that was given one of several. Of the rest
    ROCR_VISIBLE_DEVICES chooses, and of these HIP_VISIBLE_DEVICES, or CUDA_VISIBLE_DEVICES where that is not set
    (ROCR-Runtime: RvdFilter; clr: roc::Device::init).
    """
    shown = [gpu for gpu in gpus if gpu.device_file is None or gpu.device_file.exists()]
    if (names := environment.get("ROCR_VISIBLE_DEVICES")) is not None:
        shown = _chosen_by_rocr(shown, names)
    # To HIP a variable that is set to nothing is as good as none.
    if names := environment.get("HIP_VISIBLE_DEVICES") or environment.get("CUDA_VISIBLE_DEVICES"):
        shown = _chosen_by_hip(shown, names)
    return shown


def _chosen_by_rocr(gpus: list[RocmGPU], names: str) -> list[RocmGPU]:
    """Up to the first name that is none, or comes twice. A UUID may be shortened."""
    numbers: list[int] = []
    for name in (part.strip().upper() for part in names.split(",")):
        if name.startswith("G"):
            alike = [number for number, gpu in enumerate(gpus) if gpu.uuid.upper().startswith(name)]
            number = alike[0] if len(alike) == 1 and len(name) > len("GPU-") else -1
        else:
            number = _integer(name)
        if not 0 <= number < len(gpus) or number in numbers:
            break
        numbers.append(number)
    return [gpus[number] for number in numbers]


def _chosen_by_hip(gpus: list[RocmGPU], names: str) -> list[RocmGPU]:
    """Up to the first name that is none; what comes twice counts once."""
    by_name = {str(number): number for number in range(len(gpus))}
    numbers: list[int] = []
    for name in names.split(","):
        alike = [number for number, gpu in enumerate(gpus) if "GPU-" in name and name in gpu.uuid]
        number = alike[0] if alike else by_name.get(name, -1)
        if number < 0:
            break
        numbers.append(number)
    return [gpus[number] for number in dict.fromkeys(numbers)]


def _integer(text: str) -> int:
    """Decimal or hexadecimal; -1 if it is no number."""
    try:
        return int(text, 0)
    except ValueError:
        return -1


# Intel ---------------------------------------------------------------------------------------------------------------


def _intel(root: Path, on_bus: dict[str, Vendor]) -> list[GPU]:
    """Those inside the processor are on the root bus; cards are behind a bridge."""
    addresses = [address for address, vendor in on_bus.items() if vendor == "intel"]
    return [
        GPU(
            "intel",
            _name(root, address, "Intel"),
            None,
            address.startswith("0000:00:"),
            0,
            driver=_driven(root, address),
        )
        for address in addresses
    ]


def _driven(root: Path, address: str) -> bool:
    return (root / _PCI / address / "driver").exists()
