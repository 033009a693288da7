"""AMD's GPUs: what their processors have by LLVM's target name, and what some cards have. Imports nothing heavy."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["CARDS", "COMPILED", "Card", "Target", "occupancy", "target", "version"]

COMPILED = ("gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1201")
"""Targets for which every kernel is compiled ahead of time: CDNA 2, 3 and 4, RDNA 3 and 4."""
KIB = 2**10
GIB = 2**30

_UNIFIED = frozenset({"gfx90a", "gfx942", "gfx950"})
"""One file holds vector registers and those of the matrix cores; each lane has 512."""
_LARGE = frozenset({"gfx1100", "gfx1101", "gfx1151", "gfx1200", "gfx1201"})
"""RDNA 3 and 4 with half as many vector registers again as others have."""


@dataclass(frozen=True, slots=True)
class Target:
    """What limits how many waves a processor runs at a time. From LLVM's AMDGPU back end (AMDGPUBaseInfo.cpp,
    GCNSubtarget), with which a test compares."""

    name: str
    wave: int
    """Lanes that run in step."""
    vgprs: int
    """Vector registers of 32 bits that a SIMD has for each lane; where the file is unified, those of the matrix cores
    included."""
    granule: int
    """A wave is given a multiple of so many of them."""
    sgprs: int
    """Scalar registers that a SIMD's waves share; 0 where every wave has all that it can name."""
    waves: int
    """The most waves that a SIMD holds."""
    simds: int
    """Of the unit that a workgroup runs on: a compute unit, or on RDNA a workgroup processor, two of them."""
    groups: int
    """Workgroups of several waves that a unit holds at most: so many barriers it has."""
    lds: int
    """Bytes that the workgroups on a unit share."""
    workgroup_lds: int
    """Bytes that one workgroup may have of them."""


def version(name: str) -> tuple[int, int, int]:
    """Major, minor and stepping: (9, 0, 10) of "gfx90a", (11, 0, 0) of "gfx1100".

    Raises:
        ValueError: that is no target's name.
    """
    match = re.fullmatch(r"gfx([0-9]{1,2})([0-9a-f])([0-9a-f])", name)
    if match is None:
        raise ValueError(f"{name!r} is no LLVM target of an AMD GPU, such as gfx1100.")
    return int(match[1]), int(match[2], 16), int(match[3], 16)


def target(name: str) -> Target:
    """GCN 5, CDNA and RDNA up to 4.

    Raises:
        ValueError: nothing is known of the target.
    """
    generation = version(name)
    if not (9, 0) <= generation[:2] <= (12, 0):
        raise ValueError(f"Nothing is known of the target {name}; known are gfx9 to gfx1201.")
    if generation[0] == 9:
        unified = name in _UNIFIED
        registers = (512, 8) if unified else (256, 4)
        lds = (160 if name == "gfx950" else 64) * KIB
        return Target(name, 64, *registers, 800, 8 if unified else 10, 4, 16, lds, workgroup_lds=lds)
    first = generation < (10, 3)  # RDNA 1
    registers = (1536, 24) if name in _LARGE else (1024, 8 if first else 16)
    return Target(name, 32, *registers, 0, 20 if first else 16, 4, 32, 128 * KIB, workgroup_lds=64 * KIB)


def occupancy(on: Target, vgprs: int, lds: int, warps: int, sgprs: int = 0) -> int:
    """Waves of a kernel that a SIMD holds, as the compiler reckons; 0 if the kernel cannot run.

    Args:
        vgprs: of a lane, those of the matrix cores included.
        lds: bytes of a workgroup.
        warps: waves of a workgroup.
        sgprs: of a wave.
    """
    if lds > on.workgroup_lds:
        return 0
    waves = on.vgprs // (max(1, -(-vgprs // on.granule)) * on.granule)
    if on.sgprs and sgprs:
        waves = min(waves, on.sgprs // sgprs)
    groups = on.waves * on.simds // warps
    if warps > 1:
        groups = min(groups, on.groups)
    if lds:
        groups = min(groups, on.lds // lds)
    return min(waves, on.waves, -(-groups * warps // on.simds))


# Cards ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Card:
    """A card, or a die of one that programs see as a GPU of its own."""

    name: str
    target: str
    units: int
    """Compute units."""
    bandwidth: float
    """Bytes per second that the memory moves at best."""
    memory: int
    """Bytes."""


CARDS = (
    # AMD Instinct MI300X data sheet: 304 compute units, 192 GB HBM3, 5.3 TB/s.
    Card("MI300X", "gfx942", 304, 5.3e12, 192 * GIB),
    # AMD Instinct MI200 series data sheet: MI250X 220 compute units, 128 GB HBM2e, 3276.8 GB/s; each of the two dies
    # has half of them.
    Card("MI250X, one die", "gfx90a", 110, 1638.4e9, 64 * GIB),
    # AMD's product page: Radeon RX 7900 XTX 96 compute units, 24 GB GDDR6 of 20 Gbit/s at 384 bits, 960 GB/s.
    Card("RX 7900 XTX", "gfx1100", 96, 960e9, 24 * GIB),
    # AMD's product page: Radeon RX 9070 XT 64 compute units, 16 GB GDDR6 of 20 Gbit/s at 256 bits, 640 GB/s.
    Card("RX 9070 XT", "gfx1201", 64, 640e9, 16 * GIB),
)
