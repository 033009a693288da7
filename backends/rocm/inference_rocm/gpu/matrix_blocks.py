"""How matrices are cut into what one program of a kernel computes, and what the kernels have to know of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton.language as tl

from inference_rocm.gpu.device import Device
from inference_rocm.gpu.forms import FORMS, UNIT
from inference_rocm.gpu.kernels.decode import CODES, SCALES, counted
from inference_rocm.gpu.specimen import options

__all__ = ["FEW", "Blocks", "decoding", "matmul_blocks", "rows_constants", "vectors_constants"]

FEW = 4
"""Up to so many rows are multiplied as vectors."""
LARGEST = 1 << 18
"""Elements of a block in the interpreter."""
_TYPES = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}


@dataclass(frozen=True, slots=True)
class Blocks:
    """What a program of a matmul computes. None larger fits the registers in all block formats."""

    rows: int
    outputs: int
    warps: int
    units: int = 4
    """Of 32 weights, at a time."""
    inputs: int = 64
    """Of plain weights, at a time."""


def matmul_blocks(rows: int, device: Device, outputs: int = 4096, inputs: int = 4096) -> Blocks:
    """For so many rows of activations. How many of them a program takes does not hang on the matrix."""
    if device.interpreted:
        taken = _power_of_two(rows, 16, 2048)
        across = _power_of_two(outputs, 16, min(4096, 4 * LARGEST // taken))
        return Blocks(taken, across, 4, _power_of_two(inputs // UNIT, 4, 16), _power_of_two(inputs, 16, 256))
    if rows <= 16:
        return Blocks(16, 32, 2)
    if rows <= 32:
        return Blocks(32, 32, 2)
    # Where outputs are no multiple of 16, each of them is there or not: registers that say so are scarce.
    return Blocks(64, 128, 4) if device.wave == 64 and outputs % 16 == 0 else Blocks(64, 64, 8)


def _gemv_blocks(outputs: int, inputs: int, rows: int, device: Device, *, planes: bool) -> tuple[int, int]:
    """Lanes along a row, and outputs of a program: many of them read the activations seldom, few fill the device."""
    along = -(-inputs // (UNIT if planes else 4))
    if device.interpreted:
        lanes = _power_of_two(along, 1, 64)
        return lanes, _power_of_two(outputs, 1, LARGEST // (4 * lanes))
    lanes = _power_of_two(along, 16, device.wave)
    # Decoding takes registers: of more rows there is room for fewer outputs, if four waves are to run on CDNA.
    most = {1: 8, 2: 4}.get(rows, 2) if planes else {1: 8, 2: 8}.get(rows, 4)
    most = most if outputs % 16 == 0 else most // 2  # see matmul_blocks
    fitting = (each for each in (8, 4) if each <= most and outputs >= each * 4 * device.units)
    return lanes, next(fitting, 2)


def vectors_constants(block_format: str | None, outputs: int, inputs: int, rows: int, device: Device) -> dict[str, Any]:
    """Of `gemv`, or where there is no block format of `gemv_plain`."""
    lanes, each = _gemv_blocks(outputs, inputs, rows, device, planes=block_format is not None)
    sizes: dict[str, Any] = {"ROWS": rows, "OUTPUTS": each, **options(1)}
    if block_format is None:
        return sizes | {"LANES": lanes}
    form = FORMS[block_format]
    return sizes | decoding(block_format) | {"UNITS": lanes, "GROUP": form.group, "SHIFTED": form.shifted}


def rows_constants(block_format: str | None, blocks: Blocks, half: torch.dtype, device: Device) -> dict[str, Any]:
    """Of `matmul`, or where there is no block format of `matmul_plain`."""
    # The interpreter cannot multiply bfloat16; in float32 its products are the same.
    product = torch.float32 if device.interpreted and half == torch.bfloat16 else half
    sizes: dict[str, Any] = {"ROWS": blocks.rows, "OUTPUTS": blocks.outputs, **options(blocks.warps)}
    sizes |= {"TYPE": _TYPES[half], "DOT": _TYPES[product]}
    if block_format is None:
        return sizes | {"INPUTS": blocks.inputs if half.itemsize == 2 or device.interpreted else blocks.inputs // 4}
    return sizes | decoding(block_format) | {"UNITS": blocks.units}


def decoding(block_format: str) -> dict[str, Any]:
    """What a kernel has to know of a block format."""
    form = FORMS[block_format]
    return {
        "LOW": form.low,
        "HIGH": form.high,
        "scale": SCALES[block_format],
        "code": CODES.get(block_format, counted),
    }


def _power_of_two(number: int, least: int, most: int) -> int:
    """That which holds a number, within limits."""
    return max(least, min(most, 1 << (number - 1).bit_length()))
