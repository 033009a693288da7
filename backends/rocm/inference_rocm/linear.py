"""Linear layers by the form in which their weights lie in memory. A device's own kernels take their places.

Each takes rows of activations, [n, inputs] in the compute type, and gives [n, outputs] in the same type.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from inference_rocm.kernels import Kernels

__all__ = ["DenseLinear", "Int4Linear", "Int8Linear", "Linear", "StackedLinear"]

GROUP = 32
"""Weights of an int4 layer that share a scale and a zero."""
TILE = 64
"""Outputs that the int4 kernel packs together."""
FEW_ROWS = 40
"""Up to so many rows, multiplying packed weights is faster than decoding them first."""
DECODED_AT_ONCE = 1 << 20
"""Weights that are decoded at a time for many rows: 2 MiB in bfloat16, which the cores' caches hold."""


class Linear(Protocol):
    """A matrix of weights, and perhaps a bias."""

    @property
    def outputs(self) -> int:
        """Length of a row that comes out."""

    @property
    def size_bytes(self) -> int:
        """Bytes that its weights take."""

    def __call__(self, rows: Tensor) -> Tensor: ...


class StackedLinear:
    """Several layers of the same inputs, their outputs one after the other: weights that lie in different forms."""

    def __init__(self, linears: Sequence[Linear]) -> None:
        self.outputs = sum(linear.outputs for linear in linears)
        self.size_bytes = sum(linear.size_bytes for linear in linears)
        self._linears = tuple(linears)

    def __call__(self, rows: Tensor) -> Tensor:
        return torch.cat([linear(rows) for linear in self._linears], dim=-1)


class DenseLinear:
    """Weights as they are: [outputs, inputs]."""

    def __init__(self, weight: Tensor) -> None:
        self.outputs = weight.shape[0]
        self.size_bytes = weight.nbytes
        self._weight = weight.t()

    def __call__(self, rows: Tensor) -> Tensor:
        return rows @ self._weight


class Int8Linear:
    """Weights of eight bits with one scale for each output."""

    def __init__(self, codes: Tensor, scales: Tensor) -> None:
        """`codes`: int8 [outputs, inputs]. `scales`: [outputs], in the compute type."""
        self.outputs = codes.shape[0]
        self.size_bytes = codes.nbytes + scales.nbytes
        self._codes = codes
        self._scales = scales

    def __call__(self, rows: Tensor) -> Tensor:
        if len(rows) <= FEW_ROWS:
            return torch._weight_int8pack_mm(rows, self._codes, self._scales)
        out = rows.new_empty(len(rows), self.outputs)
        step = max(1, DECODED_AT_ONCE // self._codes.shape[1])
        for first in range(0, self.outputs, step):
            part = slice(first, first + step)
            torch.mm(rows, self._codes[part].to(rows.dtype).t(), out=out[:, part])
        return out.mul_(self._scales)


class Int4Linear:
    """Weights of four bits, value = (code - 8) x scale + zero in groups of 32, packed as PyTorch's CPU kernel wants."""

    def __init__(self, codes: Tensor, scales: Tensor, zeros: Tensor, kernels: Kernels | None = None) -> None:
        """`codes`: uint8 [outputs, inputs], 0 to 15. `scales`, `zeros`: [outputs, inputs / 32] in the compute type."""
        self.outputs, self._inputs = codes.shape
        padding = -self.outputs % TILE
        if padding:
            codes, scales, zeros = (
                torch.nn.functional.pad(part, (0, 0, 0, padding)) for part in (codes, scales, zeros)
            )
        self._kernels = kernels
        self._packed = torch._convert_weight_to_int4pack_for_cpu(codes.int(), 1)
        self._scales_and_zeros = torch.stack((scales.t(), zeros.t()), dim=-1).contiguous()
        self.size_bytes = self._packed.nbytes + self._scales_and_zeros.nbytes

    def __call__(self, rows: Tensor) -> Tensor:
        if len(rows) <= FEW_ROWS or not _tiles_are_known():
            out = torch._weight_int4pack_mm_for_cpu(rows, self._packed, GROUP, self._scales_and_zeros)
            return out[:, : self.outputs]
        out = rows.new_empty(len(rows), self._packed.shape[0])
        step = max(TILE, DECODED_AT_ONCE // self._inputs // TILE * TILE)
        for first in range(0, len(self._packed), step):
            part = slice(first, first + step)
            torch.mm(rows, self.decoded(part, rows.dtype), out=out[:, part])
        return out[:, : self.outputs]

    def decoded(self, outputs: slice, dtype: torch.dtype) -> Tensor:
        """The weights of some outputs, whole tiles of them: [inputs, outputs].

        The kernel's tile holds, for each input, 32 bytes: output i in the low half of byte i, output i + 32 in the
        high half.
        """
        if self._kernels is not None:
            out = torch.empty(self._inputs, len(range(len(self._packed))[outputs]), dtype=dtype)
            self._kernels.int4_decode(self._packed, self._scales_and_zeros, outputs, GROUP, out)
            return out
        tiles = self._packed[outputs].view(-1, self._inputs, TILE // 2)
        codes = torch.cat((tiles & 15, tiles >> 4), dim=-1)  # [tiles, inputs, 64]
        grouped = codes.permute(1, 0, 2).reshape(-1, GROUP, codes.shape[0] * TILE).to(dtype).sub_(8)
        scales_and_zeros = self._scales_and_zeros[:, outputs]
        scales, zeros = scales_and_zeros[:, None, :, 0], scales_and_zeros[:, None, :, 1]
        return torch.addcmul(zeros, grouped, scales).view(self._inputs, -1)


@functools.cache
def _tiles_are_known() -> bool:
    """Whether this CPU's kernel packs as `Int4Linear.decoded` reads it. With AVX2, for one, it does not."""
    codes = torch.arange(TILE * GROUP, dtype=torch.int64).mul(7).remainder(16).to(torch.uint8).view(TILE, GROUP)
    ones = torch.ones(TILE, 1)
    decoded = Int4Linear(codes, ones, 0 * ones).decoded(slice(0, None), torch.float32)
    return torch.equal(decoded.t(), codes.float() - 8)
