"""GPUs on Linux: from the PCI bus, with what NVIDIA's and AMD's kernel drivers add to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

from inference.hardware.parts import GPU, Vendor
from inference.hardware.system_files import names_in, number_in, text_in

__all__ = ["gpus", "rocm_devices"]

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


def rocm_devices(root: Path = Path("/")) -> list[Path]:
    """The directory of each GPU that ROCm can use, in the order in which ROCm numbers them. That of a card which is cut
    into partitions is there several times."""
    return [root / _PCI / address for address, _ in _kfd_nodes(root)]


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
    nodes = _kfd_nodes(root)
    known = {address for address, _ in nodes}
    rest = [(address, None) for address, vendor in on_bus.items() if vendor == "amd" and address not in known]
    return [_amd_gpu(root, address, target) for address, target in [*nodes, *rest]]


def _amd_gpu(root: Path, address: str, target: str | None) -> GPU:
    device = root / _PCI / address
    name = text_in(device / "product_name") or (f"AMD GPU {target}" if target else _name(root, address, "AMD"))
    integrated = None if target is None else target in _INTEGRATED_AMD
    memory = number_in(device / "mem_info_vram_total")
    if integrated and memory is not None:
        # The part that the firmware set aside, and what the driver may map of main memory beside it.
        memory += number_in(device / "mem_info_gtt_total") or 0
    return GPU("amd", name, memory, integrated, 0, driver=target is not None)


def _kfd_nodes(root: Path) -> list[tuple[str, str]]:
    """PCI address and LLVM's target name ("gfx1100") of each GPU that KFD, the driver below ROCm, knows; in its order.
    A card that is cut into partitions is there several times."""
    nodes = []
    for node in sorted((name for name in names_in(root / _KFD) if name.isdecimal()), key=int):
        lines = (text_in(root / _KFD / node / "properties") or "").splitlines()
        facts = {key: int(value) for key, _, value in (line.partition(" ") for line in lines) if value.isdecimal()}
        if facts.get("simd_count") and facts.get("gfx_target_version"):
            place, version = facts.get("location_id", 0), facts["gfx_target_version"]
            address = f"{facts.get('domain', 0):04x}:{place >> 8 & 255:02x}:{place >> 3 & 31:02x}.{place & 7}"
            nodes.append((address, f"gfx{version // 10_000}{version // 100 % 100:x}{version % 100:x}"))
    return nodes


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
