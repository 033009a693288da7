"""A linear layer whose weights are bfloat16."""

from __future__ import annotations

import torch
from torch import Tensor

from inference_rocm.cpu.kernels import Kernels

__all__ = ["Bfloat16Linear"]

TILE = 32
"""Outputs that lie together, as in bfloat16.c."""


class Bfloat16Linear:
    """Weights in tiles, as bfloat16.c wants them. Activations are rounded to bfloat16."""

    def __init__(self, kernels: Kernels, weight: Tensor, bias: Tensor | None) -> None:
        """`weight`: bfloat16 [outputs, inputs]. `bias`: float32 [outputs]."""
        self.outputs, inputs = weight.shape
        self._kernels = kernels
        self._bias = bias
        whole = self.outputs // TILE * TILE
        # [tiles, pairs of inputs, outputs, the pair]
        self._weight = weight.new_zeros(-(-self.outputs // TILE), inputs // 2, TILE, 2)
        self._weight[: whole // TILE] = weight[:whole].view(-1, TILE, inputs // 2, 2).transpose(1, 2)
        if whole < self.outputs:
            left = weight[whole:].view(-1, inputs // 2, 2)
            self._weight[-1, :, : len(left)] = left.transpose(0, 1)
        self.size_bytes = self._weight.nbytes

    def __call__(self, rows: Tensor) -> Tensor:
        out = torch.empty(rows.shape[0], self.outputs)
        self._kernels.bfloat16_linear(self._weight, self._bias, rows, out)
        return out

    def add_to(self, stream: Tensor, rows: Tensor) -> None:
        self._kernels.bfloat16_linear(self._weight, self._bias, rows, stream, add=True)
