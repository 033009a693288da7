"""Rotary position embedding by tables of sines and cosines."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from inference.gguf.architectures import Rope

__all__ = ["Rotary"]

CHUNK = 1 << 14
"""Positions whose angles are in memory at a time, in float64."""


class Rotary:
    """Turns halves: pair i of a head is its elements i and i + n/2. Rows of models that pair neighbours are reordered
    when they are loaded (`Rope.halves_order`)."""

    def __init__(self, rope: Rope, factors: Sequence[float] | None, length: int, device: torch.device) -> None:
        """Tables for positions below `length`."""
        frequencies = torch.tensor(rope.frequencies(factors), dtype=torch.float64, device=device)
        self._dimensions = rope.dimensions
        # float32 [positions, dimensions / 2]
        self.cos = torch.empty(length, len(frequencies), device=device)
        self.sin = torch.empty_like(self.cos)
        for first in range(0, length, CHUNK):
            positions = torch.arange(first, min(first + CHUNK, length), dtype=torch.float64, device=device)
            angles = positions[:, None] * frequencies
            self.cos[first : first + CHUNK] = angles.cos() * rope.magnitude
            self.sin[first : first + CHUNK] = angles.sin() * rope.magnitude

    @staticmethod
    def size_of(rope: Rope, length: int) -> int:
        """Bytes of both tables."""
        return 4 * length * rope.dimensions

    def __call__(self, heads: Tensor, positions: Tensor) -> Tensor:
        """`heads`: [tokens, heads, head_length]; the same shape and type come out, turned."""
        cos, sin = self.cos[positions, None], self.sin[positions, None]
        half = self._dimensions // 2
        first, second = heads[..., :half], heads[..., half : self._dimensions]
        turned = (first * cos - second * sin, second * cos + first * sin)
        if self._dimensions == heads.shape[-1]:
            return torch.cat(turned, dim=-1).to(heads.dtype)
        return torch.cat((*(part.to(heads.dtype) for part in turned), heads[..., self._dimensions :]), dim=-1)
