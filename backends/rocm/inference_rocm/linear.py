"""Linear layers by the form in which their weights lie in memory. A device's own kernels take their places.

Each takes rows of activations, [n, inputs] in the decoder's type, and gives [n, outputs] in the same type.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["DenseLinear", "Linear", "StackedLinear"]


class Linear(Protocol):
    """A matrix of weights, and perhaps a bias."""

    @property
    def outputs(self) -> int:
        """Length of a row that comes out."""

    @property
    def size_bytes(self) -> int:
        """Bytes that its weights take."""

    def __call__(self, rows: Tensor) -> Tensor: ...

    def add_to(self, stream: Tensor, rows: Tensor) -> None:
        """Add what comes out to `stream`, float32 [n, outputs]."""


class DenseLinear:
    """Weights as they are: [outputs, inputs]. Rows are multiplied in the weights' type."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.outputs = weight.shape[0]
        self.size_bytes = weight.nbytes
        self._weight = weight.t()
        self._bias = bias

    def __call__(self, rows: Tensor) -> Tensor:
        out = (rows.to(self._weight.dtype) @ self._weight).to(rows.dtype)
        return out if self._bias is None else out.add_(self._bias)

    def add_to(self, stream: Tensor, rows: Tensor) -> None:
        stream += self(rows)


class StackedLinear:
    """Several layers of the same inputs, their outputs one after the other: weights that lie in different forms."""

    def __init__(self, linears: Sequence[Linear]) -> None:
        self.outputs = sum(linear.outputs for linear in linears)
        self.size_bytes = sum(linear.size_bytes for linear in linears)
        self._linears = tuple(linears)

    def __call__(self, rows: Tensor) -> Tensor:
        return torch.cat([linear(rows) for linear in self._linears], dim=-1)

    def add_to(self, stream: Tensor, rows: Tensor) -> None:
        stream += self(rows)
