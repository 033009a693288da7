"""Linear layers on the GPU."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inference.gguf.blocks import BlockLayout, GroupedLayout
from inference_rocm.gpu.device import Device
from inference_rocm.gpu.matrix import Matrix
from inference_rocm.gpu.matrix_blocks import FEW
from inference_rocm.gpu.planes import Planes, planes_of

__all__ = ["TritonLinear", "weights_of"]

_FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class TritonLinear:
    """Implements `Linear`. What comes out is float32."""

    def __init__(self, matrix: Matrix) -> None:
        self.matrix = matrix
        self.outputs = matrix.outputs
        self.size_bytes = matrix.size_bytes

    def __call__(self, rows: Tensor) -> Tensor:
        out = torch.empty(len(rows), self.outputs, device=rows.device)
        self._multiply(rows, out, add=False)
        return out

    def add_to(self, stream: Tensor, rows: Tensor) -> None:
        self._multiply(rows, stream, add=True)

    def _multiply(self, rows: Tensor, out: Tensor, *, add: bool) -> None:
        multiply = self.matrix.vectors if len(rows) <= FEW else self.matrix.rows
        multiply(rows, out, add=add)


def weights_of(
    layout: BlockLayout, pieces: Iterable[NDArray[np.uint8]], outputs: int, inputs: int, device: Device
) -> Planes | Tensor:
    """A matrix's weights in the GPU's memory, from its blocks, some rows at a time: as the file has them."""
    if isinstance(layout, GroupedLayout):
        return planes_of(layout, pieces, outputs, inputs, device.torch)
    dtype = _FLOATS[layout.name]
    weights = torch.empty(outputs, inputs, dtype=dtype, device=device.torch)
    first = 0
    for blocks in pieces:
        weights[first : first + len(blocks)] = torch.from_numpy(layout.decode(blocks)).to(dtype)
        first += len(blocks)
    return weights
