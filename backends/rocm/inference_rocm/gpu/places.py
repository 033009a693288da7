"""Where the tokens of a pass go."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["Places"]


@dataclass(frozen=True, slots=True)
class Places:
    """What kernels have to know of a pass's tokens, on the device."""

    slots: Tensor
    """int32 [tokens]: each token's slot; -1 for one that only fills a captured pass."""
    positions: Tensor
    """int32 [tokens]: its position in the slot."""
    tiles: Tensor | None = None
    """int32 [n, 4]: the tokens that follow each other in a slot, as `query_tiles` cuts them; None where each token is
    the only one of its slot."""
