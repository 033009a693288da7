"""From a file's blocks to a linear layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from inference.gguf.architectures import Part
from inference.gguf.weights import Weights
from inference_rocm.linear import Linear, StackedLinear
from inference_rocm.operations import Rows

__all__ = ["Source", "linear_of", "rows_of"]

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
    weights: Weights, sources: Sequence[Source], bias: Tensor | None, make: Callable[[Rows], Linear]
) -> Linear:
    """One layer of the rows of all `sources`, one after the other. `bias`: float32 [outputs]. `make` is called once for
    sources that follow each other in the same block format."""
    linears: list[Linear] = []
    first = 0
    for _, group in groupby(sources, lambda source: weights.layout(source.part.tensor).name):
        alike = [*group]
        outputs = sum(_count(weights, source) for source in alike)
        part = None if bias is None else bias[first : first + outputs].contiguous()
        linears.append(make(rows_of(weights, alike, part)))
        first += outputs
    return linears[0] if len(linears) == 1 else StackedLinear(linears)


def rows_of(weights: Weights, sources: Sequence[Source], bias: Tensor | None) -> Rows:
    """The rows of all `sources`, which have the same block format and length."""
    tensor = sources[0].part.tensor
    outputs = sum(_count(weights, source) for source in sources)
    return Rows(weights.layout(tensor), _pieces(weights, sources), outputs, weights.shape(tensor)[-1], bias)


def _count(weights: Weights, source: Source) -> int:
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
