"""From a file's blocks to the planes that the GPU's kernels read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inference.gguf.blocks import GroupedLayout
from inference.gguf.blocks.groups import StoredScales
from inference_rocm.gpu.forms import FORMS, UNIT

__all__ = ["Planes", "plane_types", "planes_of"]

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int32}
"""What holds a plane's fields, by their bits."""


@dataclass(frozen=True, slots=True)
class Planes:
    """A quantised matrix, or one for each expert: see forms.py."""

    block_format: str
    outputs: int
    """Of all matrices together."""
    inputs: int
    low: Tensor
    """[outputs, units, 4] integers."""
    high: Tensor | None
    scales: Tensor
    """[outputs, units]: integers or float16."""
    supers: Tensor | None
    """[outputs, inputs / 256]."""

    @property
    def size_bytes(self) -> int:
        return sum(part.nbytes for part in (self.low, self.high, self.scales, self.supers) if part is not None)


def planes_of(
    layout: GroupedLayout, pieces: Iterable[NDArray[np.uint8]], outputs: int, inputs: int, device: torch.device
) -> Planes:
    """Pack all rows of a matrix. `pieces`: its blocks, some rows at a time, uint8 [n, row bytes]."""
    form = FORMS[layout.name]
    units = inputs // UNIT
    numbers = torch.from_numpy(layout.numbers()).to(device)
    low = torch.empty(outputs, units, 4, dtype=_INTEGERS[form.low], device=device)
    high = torch.empty(outputs, units, 4, dtype=_INTEGERS[form.high], device=device) if form.high else None
    scales: list[Tensor] = []
    supers: list[Tensor] = []
    first = 0
    for blocks in pieces:
        codes = torch.from_numpy(layout.unpack(blocks).codes.view(np.uint8)).to(device)
        number = numbers[codes.int()].view(len(blocks), units, 8, 4)
        rows = slice(first, first + len(blocks))
        if form.low == 8:
            parts = number[:, :, :4], number[:, :, 4:]
        else:
            parts = number & (1 << form.low) - 1, number >> form.low
        _gather_fields(parts[0], form.low, low[rows])
        if high is not None:
            _gather_fields(parts[1], form.high, high[rows])
        own, above = _scales(layout.stored_scales(blocks))
        scales.append(torch.tensor(own).to(device))
        if above is not None:
            supers.append(torch.tensor(above).to(device))
        first += len(blocks)
    return Planes(layout.name, outputs, inputs, low, high, torch.cat(scales), torch.cat(supers) if supers else None)


def plane_types(block_format: str) -> dict[str, str]:
    """Triton's names of the types of the planes that a format has."""
    form = FORMS[block_format]
    integers = {torch.uint8: "*u8", torch.int16: "*i16", torch.int32: "*i32"}
    halves = block_format in ("Q8_0", "Q4_0", "Q5_0", "IQ4_NL")
    scales = {1: "*i8" if form.super_bytes else "*u8", 2: "*fp16" if halves else "*i16", 4: "*i32"}
    supers = {0: {}, 2: {"supers": "*fp16"}, 4: {"supers": "*i32"}}[form.super_bytes]
    high = {"high": integers[_INTEGERS[form.high]]} if form.high else {}
    return {"low": integers[_INTEGERS[form.low]], **high, "scales": scales[form.scale_bytes], **supers}


def _gather_fields(numbers: Tensor, bits: int, out: Tensor) -> None:
    """Put `numbers`, uint8 [n, units, fields, 4], into the fields of `out`, [n, units, 4]."""
    out.zero_()
    for place in range(numbers.shape[2]):
        out |= numbers[:, :, place].to(out.dtype) << bits * place


def _scales(stored: StoredScales) -> tuple[NDArray[np.generic], NDArray[np.generic] | None]:
    """What is beside a unit's numbers, and what is beside a block's."""
    factors, steps = stored.factors, stored.steps
    if steps is None:
        assert factors is not None
        return factors if stored.offset_factors is None else _pairs(factors, stored.offset_factors), None
    if factors is None:
        return steps, None
    above = factors if stored.offset_factors is None else _pairs(factors, stored.offset_factors)
    if stored.offset_steps is not None:
        # Groups of 16: four bits each, a byte for a group, and two groups to a unit; groups of 32: a byte each.
        if steps.shape[-1] == 16 * factors.shape[-1]:
            return (steps | stored.offset_steps << np.uint8(4)).view(np.int16), above
        return np.stack((steps, stored.offset_steps), axis=-1).view(np.int16)[..., 0], above
    return steps.view(np.int16) if steps.shape[-1] == 16 * factors.shape[-1] else steps, above


def _pairs(lower: NDArray[np.float16], upper: NDArray[np.float16]) -> NDArray[np.int32]:
    pairs: NDArray[np.int32] = np.stack((lower, upper), axis=-1).view(np.int32)[..., 0]
    return pairs
