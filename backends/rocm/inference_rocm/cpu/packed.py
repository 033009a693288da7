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
        stored, table = torch.from_numpy(layout.numbers()), _table(layout)
        tiles = -(-outputs // TILE)
        tile_bytes = TILE * inputs * form.bits // 8
        self._codes = torch.empty(tiles * tile_bytes, dtype=torch.uint8)
        scales, offsets = (_Halves(outputs, inputs // form.group) for _ in range(2))
        first = 0
        for piece in _whole_tiles(pieces):
            out = self._codes[first // TILE * tile_bytes :]
            kernels.pack(torch.from_numpy(piece.codes), stored, out, form.bits, form.group)
            first += len(piece.codes)
            scales.add(piece.scales)
            if piece.offsets is not None:
                offsets.add(piece.offsets)
        self._scales, scale_unit = scales.tiled()
        self._offsets: Tensor | None = None
        offset_unit = 1.0
        if form.has_offsets:
            self._offsets, offset_unit = offsets.tiled()
        self.size_bytes = sum(part.nbytes for part in (self._codes, self._scales, self._offsets) if part is not None)
        self._layer = Layer(
            *(None if part is None else part.data_ptr() for part in (self._codes, self._scales, self._offsets, bias)),
            (ctypes.c_uint8 * 16)(*(table or ())),
            outputs, inputs, form.bits, form.group, table is not None, -layout.code_range[0], scale_unit, offset_unit,
        )  # fmt: skip

    def __call__(self, rows: Tensor) -> Tensor:
        out = torch.empty(rows.shape[0], self.outputs)
        self._kernels.linear(self._layer, rows, out)
        return out

    def add_to(self, stream: Tensor, rows: Tensor) -> None:
        self._kernels.linear(self._layer, rows, stream, add=True)


def _table(layout: GroupedLayout) -> list[int] | None:
    """What each stored number stands for above the least code, where numbers do not count up from that."""
    return None if layout.codebook is None else [code - layout.code_range[0] for code in layout.codebook]


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


class _Halves:
    """Scales or offsets, gathered and then put into half precision by a unit that is a power of two."""

    def __init__(self, outputs: int, groups: int) -> None:
        self._values = np.zeros((-(-outputs // TILE) * TILE, groups), np.float32)
        self._filled = 0

    def add(self, values: NDArray[np.float32]) -> None:
        """The next outputs': [n, groups]."""
        self._values[self._filled : self._filled + len(values)] = values
        self._filled += len(values)

    def tiled(self) -> tuple[Tensor, float]:
        """[tiles, groups, 32], and the unit."""
        values, finite = self._values, np.isfinite(self._values)
        greatest = max(float(values.max(where=finite, initial=0)), -float(values.min(where=finite, initial=0)))
        unit = 2.0 ** np.floor(np.log2(greatest / GREATEST)) if greatest > 0 else 1.0
        tiles = values.reshape(-1, TILE, values.shape[1]).transpose(0, 2, 1)
        halves = np.empty(tiles.shape, np.float16)
        with np.errstate(over="ignore", invalid="ignore"):  # damaged scales stay infinite, or NaN
            np.divide(tiles, np.float32(unit), out=halves, casting="same_kind")
        return torch.from_numpy(halves), float(unit)
