"""A linear layer whose weights stay quantised."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inference.gguf.blocks import GroupedLayout, Groups
from inference_rocm.cpu.kernels import Kernels, Layer
from inference_rocm.forms import PackedForm

__all__ = ["PackedLinear"]

TILE = 32
"""Outputs that lie together, as in linear.c."""
GREATEST = 2.0**14
"""Where the greatest scale of a layer lies, within a factor of two: half precision has most room below."""


class PackedLinear:
    """Weights in tiles, as linear.c wants them. Activations are rounded to eight bits in groups of 32."""

    def __init__(
        self,
        kernels: Kernels,
        form: PackedForm,
        layout: GroupedLayout,
        pieces: Iterable[Groups],
        outputs: int,
        inputs: int,
        bias: Tensor | None,
    ) -> None:
        """`pieces`: all rows of the matrix, some at a time. `bias`: float32 [outputs]."""
        self.outputs = outputs
        self._kernels = kernels
        self._bias = bias
        least, stored, table = _storage(layout)
        tiles = -(-outputs // TILE)
        tile_bytes = TILE * inputs * form.bits // 8
        self._codes = torch.empty(tiles * tile_bytes, dtype=torch.uint8)
        scales, offsets, first = [], [], 0
        for piece in _whole_tiles(pieces):
            out = self._codes[first // TILE * tile_bytes :]
            kernels.pack(torch.from_numpy(piece.codes), stored, out, form.bits, form.group)
            first += len(piece.codes)
            scales.append(piece.scales)
            if piece.offsets is not None:
                offsets.append(piece.offsets)
        self._scales, scale_unit = _halves(np.concatenate(scales))
        self._offsets: Tensor | None = None
        offset_unit = 1.0
        if offsets:
            self._offsets, offset_unit = _halves(np.concatenate(offsets))
        self.size_bytes = sum(part.nbytes for part in (self._codes, self._scales, self._offsets) if part is not None)
        self._layer = Layer(
            *(None if part is None else part.data_ptr() for part in (self._codes, self._scales, self._offsets, bias)),
            (ctypes.c_uint8 * 16)(*(table or ())),
            outputs, inputs, form.bits, form.group, table is not None, -least, scale_unit, offset_unit,
        )  # fmt: skip

    def __call__(self, rows: Tensor) -> Tensor:
        out = torch.empty(rows.shape[0], self.outputs)
        self._kernels.linear(self._layer, rows, out)
        return out

    def add_to(self, stream: Tensor, rows: Tensor) -> None:
        self._kernels.linear(self._layer, rows, stream, add=True)


def _storage(layout: GroupedLayout) -> tuple[int, Tensor, list[int] | None]:
    """The least code; the number that is stored for each code as a byte, uint8 [256]; and, where stored numbers do not
    count up from the least code, what each stands for above it."""
    codes = np.arange(256, dtype=np.uint8).view(np.int8).astype(np.int64)
    if layout.codebook is None:
        least = layout.code_range[0]
        return least, torch.from_numpy((codes - least).astype(np.uint8)), None
    least = min(layout.codebook)
    stored = np.zeros(256, np.uint8)
    for number, code in reversed([*enumerate(layout.codebook)]):
        stored[code] = number
    return least, torch.from_numpy(stored), [code - least for code in layout.codebook]


def _whole_tiles(pieces: Iterable[Groups]) -> Iterator[Groups]:
    """The same rows in pieces of whole tiles, but for the last."""
    left: Groups | None = None
    for piece in pieces:
        together = piece if left is None else _joined(left, piece)
        whole = len(together.codes) // TILE * TILE
        if whole:
            yield _rows(together, slice(whole))
        left = _rows(together, slice(whole, None)) if whole < len(together.codes) else None
    if left is not None:
        yield left


def _joined(one: Groups, other: Groups) -> Groups:
    offsets = None
    if one.offsets is not None and other.offsets is not None:
        offsets = np.concatenate((one.offsets, other.offsets))
    codes, scales = np.concatenate((one.codes, other.codes)), np.concatenate((one.scales, other.scales))
    return Groups(codes, scales, offsets, one.group)


def _rows(groups: Groups, rows: slice) -> Groups:
    offsets = None if groups.offsets is None else groups.offsets[rows]
    return Groups(groups.codes[rows], groups.scales[rows], offsets, groups.group)


def _halves(values: NDArray[np.float32]) -> tuple[Tensor, float]:
    """Values [outputs, groups] in half precision, [tiles, groups, 32], by a unit that is a power of two."""
    finite = np.abs(values[np.isfinite(values)])
    greatest = float(finite.max()) if len(finite) else 0.0
    unit = 2.0 ** np.floor(np.log2(greatest / GREATEST)) if greatest > 0 else 1.0
    outputs, groups = values.shape
    padded = np.zeros((-(-outputs // TILE) * TILE, groups), np.float16)
    with np.errstate(over="ignore", invalid="ignore"):  # damaged scales stay infinite, or NaN
        padded[:outputs] = values / np.float32(unit)
    tiled = padded.reshape(-1, TILE, groups).transpose(0, 2, 1)
    return torch.from_numpy(np.ascontiguousarray(tiled)), float(unit)
