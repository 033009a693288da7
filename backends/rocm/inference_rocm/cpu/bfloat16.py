"""A linear layer whose weights are bfloat16."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from inference_rocm.cpu.kernels import Kernels

__all__ = ["Bfloat16Linear"]

TILE = 32
"""Outputs that lie together, as in bfloat16.c."""


class Bfloat16Linear:
    """Weights in tiles, as bfloat16.c wants them. Activations are rounded to bfloat16."""

    def __init__(
        self, kernels: Kernels, pieces: Iterable[Tensor], outputs: int, inputs: int, bias: Tensor | None
    ) -> None:
        """`pieces`: all rows of the matrix, some at a time, [n, inputs]. `bias`: float32 [outputs]."""
        self.outputs = outputs
        self._kernels = kernels
        self._bias = bias
        # [tiles, pairs of inputs, outputs, the pair]
        self._weight = torch.zeros(-(-outputs // TILE), inputs // 2, TILE, 2, dtype=torch.bfloat16)
        first = 0
        for piece in pieces:
            rows = torch.arange(first, first + len(piece))
            self._weight[rows // TILE, :, rows % TILE] = piece.bfloat16().view(len(piece), -1, 2)
            first += len(piece)
        self.size_bytes = self._weight.nbytes

    def __call__(self, rows: Tensor) -> Tensor:
        out = torch.empty(rows.shape[0], self.outputs)
        self._kernels.bfloat16_linear(self._weight, self._bias, rows, out)
        return out

    def add_to(self, stream: Tensor, rows: Tensor) -> None:
        self._kernels.bfloat16_linear(self._weight, self._bias, rows, stream, add=True)
