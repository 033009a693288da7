"""What a machine is made of, as far as running a model goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["CPU", "GPU", "Machine", "System", "Vendor"]

Vendor: TypeAlias = Literal["nvidia", "amd", "apple", "intel"]
System: TypeAlias = Literal["linux", "darwin", "windows"]


@dataclass(frozen=True, slots=True)
class CPU:
    name: str
    physical_cores: int
    """Of the whole machine."""
    usable_cores: int
    """Those that this process may use: see `physical_cores()`."""
    features: frozenset[str]
    """Instruction sets, as the system names them: "avx512_bf16", "asimddp", "FEAT_I8MM". Empty if it does not say."""


@dataclass(frozen=True, slots=True)
class GPU:
    vendor: Vendor
    name: str
    memory_bytes: int | None
    """Its own memory; for an integrated GPU what it may take of the machine's. None where the system does not say."""
    integrated: bool | None
    """Whether it shares the machine's memory; None where the system does not say."""
    index: int
    """Among the GPUs of its vendor, those with a driver first."""
    driver: bool = True
    """Whether the driver that computing needs has taken the device."""


@dataclass(frozen=True, slots=True)
class Machine:
    system: System
    architecture: str
    """Of the processor: "x86_64", "arm64", or the system's own word."""
    cpu: CPU
    gpus: tuple[GPU, ...]
    memory_bytes: int | None
    """Main memory, or the limit of the container if that is less."""
    available_memory_bytes: int | None
    """What of it is free or could be freed without swapping."""
