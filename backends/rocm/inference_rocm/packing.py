"""From a file's blocks to a linear layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inference.gguf.architectures import Part
from inference.gguf.blocks import GroupedLayout
from inference.gguf.weights import Weights
from inference_rocm.cpu.bfloat16 import Bfloat16Linear
from inference_rocm.cpu.kernels import Kernels
from inference_rocm.cpu.packed import PackedLinear
from inference_rocm.forms import PACKED
from inference_rocm.linear import DenseLinear, Linear, StackedLinear

__all__ = ["Source", "linear_of"]

WEIGHTS_AT_ONCE = 1 << 21


@dataclass(frozen=True, slots=True)
class Source:
    """Rows of a matrix of the file."""

    part: Part
    order: NDArray[np.intp] | None = None
    """The order in which the part's rows are wanted; None: as they are."""
    expert: int | None = None
    """Which matrix, where the tensor holds one for each expert."""


def linear_of(
    weights: Weights, sources: Sequence[Source], dtype: torch.dtype, bias: Tensor | None, kernels: Kernels | None
) -> Linear:
    """One layer of the rows of all `sources`, one after the other.

    With `kernels`, matrices of the formats that they multiply stay quantised, and others are bfloat16 (but for odd
    lengths of rows). Without, all are of `dtype`. `bias`: float32 [outputs].
    """

    def block_format(source: Source) -> str:
        return weights.layout(source.part.tensor).name

    linears: list[Linear] = []
    for name, group in groupby(sources, block_format):
        alike = [*group]
        outputs, first = sum(_rows(weights, source) for source in alike), sum(linear.outputs for linear in linears)
        part = None if bias is None else bias[first : first + outputs].contiguous()
        if kernels is not None and name in PACKED:
            linears.append(_packed(weights, alike, outputs, part, kernels))
        elif kernels is not None and (inputs := weights.shape(alike[0].part.tensor)[-1]) % 2 == 0:
            linears.append(Bfloat16Linear(kernels, _decoded(weights, alike), outputs, inputs, part))
        else:
            linears.append(DenseLinear(torch.cat([piece.to(dtype) for piece in _decoded(weights, alike)]), part))
    return linears[0] if len(linears) == 1 else StackedLinear(linears)


def _packed(
    weights: Weights, sources: Sequence[Source], outputs: int, bias: Tensor | None, kernels: Kernels
) -> PackedLinear:
    tensor = sources[0].part.tensor
    layout = weights.layout(tensor)
    assert isinstance(layout, GroupedLayout)
    groups = (layout.unpack(blocks) for blocks in _pieces(weights, sources))
    inputs = weights.shape(tensor)[-1]
    return PackedLinear(kernels, PACKED[layout.name], layout, groups, outputs, inputs, bias)


def _decoded(weights: Weights, sources: Sequence[Source]) -> Iterator[Tensor]:
    """All rows, some at a time: float32 [n, inputs]."""
    layout = weights.layout(sources[0].part.tensor)
    return (torch.from_numpy(layout.decode(blocks)) for blocks in _pieces(weights, sources))


def _rows(weights: Weights, source: Source) -> int:
    return len(range(weights.shape(source.part.tensor)[-2])[source.part.rows or slice(None)])


def _pieces(weights: Weights, sources: Iterable[Source]) -> Iterator[NDArray[np.uint8]]:
    """The blocks of all sources, some rows at a time, so that no more than those are ever unpacked at once."""
    for source in sources:
        blocks = weights.raw(source.part.tensor)
        if source.expert is not None:
            blocks = blocks[source.expert]
        blocks = blocks[source.part.rows or slice(None)]
        step = max(1, WEIGHTS_AT_ONCE // weights.shape(source.part.tensor)[-1])
        for first in range(0, len(blocks), step):
            rows = slice(first, first + step)
            yield blocks[rows] if source.order is None else blocks[source.order[rows]]
