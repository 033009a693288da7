"""Rotary position embedding: which pairs of a head turn together, and how fast each pair turns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["PairOrder", "Rope", "Yarn"]

PairOrder: TypeAlias = Literal["interleaved", "halves"]
"""Which elements of a head turn together: "interleaved" 2i and 2i + 1 (llama.cpp's NORM), "halves" i and i + n/2 (its
NEOX). The converters of the llama family store the rows of queries and keys in the interleaved order."""


@dataclass(frozen=True, slots=True)
class Yarn:
    """YaRN's blend: fast pairs keep their frequency, slow ones are interpolated, those between are mixed."""

    original_context_length: int
    """Tokens that the model saw before its context was extended."""
    beta_fast: float = 32.0
    """Pairs that turn more often than this within the original context keep their frequency."""
    beta_slow: float = 1.0
    """Pairs that turn less often than this are interpolated in full."""

    def kept(self, pair: int, dimensions: int, base: float) -> float:
        """How much of its own frequency a pair keeps, from 1 (all) to 0. Source: ggml_rope_yarn_corr_dims and
        rope_yarn_ramp, which let the ramp end on whole pairs."""
        first = max(0.0, math.floor(self._pair_turning(self.beta_fast, dimensions, base)))
        last = min(dimensions - 1.0, math.ceil(self._pair_turning(self.beta_slow, dimensions, base)))
        return 1.0 - min(1.0, max(0.0, (pair - first) / max(0.001, last - first)))

    def _pair_turning(self, turns: float, dimensions: int, base: float) -> float:
        """The pair, as a fraction, that turns `turns` times within the original context."""
        return dimensions * math.log(self.original_context_length / (turns * 2 * math.pi)) / (2 * math.log(base))


@dataclass(frozen=True, slots=True)
class Rope:
    """How one layer turns its queries and keys. Pair i of the token at position p turns by p x frequency i."""

    order: PairOrder
    dimensions: int
    """Elements of a head that turn, from the first on; the others stay as they are."""
    base: float
    scale: float = 1.0
    """Frequencies are multiplied by it: 1 / `rope.scaling.factor`."""
    yarn: Yarn | None = None
    magnitude: float = 1.0
    """Sines and cosines are multiplied by it (YaRN's mscale, longrope's attention factor)."""

    def frequencies(self, factors: Sequence[float] | None = None) -> list[float]:
        """Radians per position of each of the `dimensions` / 2 pairs. `factors` are divisors, one for each pair: what
        `Config.rope_factors` names."""
        pairs = range(self.dimensions // 2)
        plain = [self.base ** (-2 * pair / self.dimensions) for pair in pairs]
        if factors is not None:
            plain = [frequency / factor for frequency, factor in zip(plain, factors, strict=True)]
        if self.yarn is None:
            return [frequency * self.scale for frequency in plain]
        kept = [self.yarn.kept(pair, self.dimensions, self.base) for pair in pairs]
        return [one * (self.scale * (1 - keep) + keep) for one, keep in zip(plain, kept, strict=True)]

    def halves_order(self, head_length: int) -> list[int]:
        """The rows of one head in the order that "halves" wants: taking a query's or key's rows in this order lets an
        engine turn halves whatever the file's order is. Attention does not change, since both are reordered alike."""
        rows = list(range(head_length))
        if self.order == "interleaved":
            rows[: self.dimensions] = [*range(0, self.dimensions, 2), *range(1, self.dimensions, 2)]
        return rows
