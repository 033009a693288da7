"""From a file's blocks to the form that the CPU's kernels want."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray

from inference.gguf.architectures import Part
from inference.gguf.blocks import BlockLayout, GroupedLayout
from inference.gguf.weights import Weights
from inference_rocm.forms import Form, form_of
from inference_rocm.kernels import Kernels
from inference_rocm.linear import DenseLinear, Int4Linear, Int8Linear, Linear, StackedLinear

__all__ = ["Source", "packed_linear"]

ROWS_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class Source:
    """Rows of a matrix of the file."""

    part: Part
    order: NDArray[np.intp] | None = None
    """The order in which the part's rows are wanted; None: as they are."""
    expert: int | None = None
    """Which matrix, where the tensor holds one for each expert."""


def packed_linear(
    weights: Weights,
    sources: Sequence[Source],
    dtype: torch.dtype,
    *,
    decoded: bool = False,
    kernels: Kernels | None = None,
) -> Linear:
    """One layer of the rows of all `sources`, one after the other. `decoded` keeps all weights in `dtype`."""

    def form(source: Source) -> Form:
        return "dense" if decoded else form_of(weights.layout(source.part.tensor).name)

    linears = [_packed(weights, [*group], of_all, dtype, kernels) for of_all, group in groupby(sources, form)]
    return linears[0] if len(linears) == 1 else StackedLinear(linears)


def _packed(
    weights: Weights, sources: Sequence[Source], form: Form, dtype: torch.dtype, kernels: Kernels | None
) -> Linear:
    pieces = (piece for source in sources for piece in _pieces(weights, source))
    if form == "int4":
        return _int4(pieces, dtype, kernels)
    if form == "int8":
        return _int8(pieces, dtype)
    return DenseLinear(torch.cat([torch.from_numpy(piece.decoded()).to(dtype) for piece in pieces]))


@dataclass(frozen=True, slots=True)
class _Piece:
    """Some blocks, so that no more than those are ever unpacked at once."""

    layout: BlockLayout
    blocks: NDArray[np.uint8]

    def decoded(self) -> NDArray[np.float32]:
        return self.layout.decode(self.blocks)


def _pieces(weights: Weights, source: Source) -> Iterator[_Piece]:
    layout, blocks = weights.layout(source.part.tensor), weights.raw(source.part.tensor)
    if source.expert is not None:
        blocks = blocks[source.expert]
    blocks = blocks[source.part.rows or slice(None)]
    for first in range(0, len(blocks), ROWS_AT_ONCE):
        rows = slice(first, first + ROWS_AT_ONCE)
        yield _Piece(layout, blocks[rows] if source.order is None else blocks[source.order[rows]])


def _int4(pieces: Iterable[_Piece], dtype: torch.dtype, kernels: Kernels | None) -> Int4Linear:
    codes, scales, zeros = [], [], []
    for piece in pieces:
        assert isinstance(piece.layout, GroupedLayout)
        groups = piece.layout.unpack(piece.blocks)
        # The kernel subtracts 8; Q4_0's codes have that taken off already.
        least = piece.layout.code_range[0]
        scale = torch.from_numpy(groups.scales)
        offset = torch.zeros_like(scale) if groups.offsets is None else torch.from_numpy(groups.offsets)
        codes.append(torch.from_numpy((groups.codes - np.int8(least)).view(np.uint8)))
        scales.append(scale.to(dtype))
        zeros.append((offset + (8 + least) * scale).to(dtype))
    return Int4Linear(torch.cat(codes), torch.cat(scales), torch.cat(zeros), kernels)


def _int8(pieces: Iterable[_Piece], dtype: torch.dtype) -> Int8Linear:
    codes, scales = [], []
    for piece in pieces:
        values = torch.from_numpy(piece.decoded())
        # The scale is rounded first, and upwards, so that the codes make up for its rounding.
        scale = (values.abs().amax(dim=1) * (1 + 2**-8) / 127).clamp_min(torch.finfo(torch.float32).tiny).to(dtype)
        codes.append((values / scale.float()[:, None]).round_().to(torch.int8))
        scales.append(scale)
    return Int8Linear(torch.cat(codes), torch.cat(scales))
