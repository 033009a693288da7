"""What one pass computes: runs of tokens, each in its slot, one after the other in one long row of activations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

__all__ = ["Span", "Spans"]


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens that lie side by side in one slot."""

    slot: int
    start: int
    """Position of the first."""
    tokens: Sequence[int]

    @property
    def end(self) -> int:
        """One after the last position."""
        return self.start + len(self.tokens)


class Spans:
    """All spans of a pass: first those of one token, by slot, which attend together; then the longer ones."""

    def __init__(self, spans: Sequence[Span], device: torch.device) -> None:
        self.singles = sorted((span for span in spans if len(span.tokens) == 1), key=lambda span: span.slot)
        self.longer = [span for span in spans if len(span.tokens) > 1]
        self._device = device
        ordered = [*self.singles, *self.longer]
        self.tokens = [token for span in ordered for token in span.tokens]
        self.positions = self._tensor([position for span in ordered for position in range(span.start, span.end)])
        self._last = {span.slot: index for span, index in zip(ordered, _ends(ordered), strict=True)}

    def last_of(self, slot: int) -> int:
        """Row of the last token that the slot feeds."""
        return self._last[slot]

    @cached_property
    def slots(self) -> Tensor:
        """The slot of each token."""
        return self._tensor([span.slot for span in (*self.singles, *self.longer) for _ in span.tokens])

    @cached_property
    def single_slots(self) -> Tensor:
        return self.slots[: len(self.singles)]

    @cached_property
    def single_positions(self) -> Tensor:
        return self.positions[: len(self.singles)]

    @cached_property
    def single_range(self) -> slice | None:
        """The single spans' slots as a range, if they lie side by side; then no key has to be copied."""
        slots = [span.slot for span in self.singles]
        return slice(slots[0], slots[-1] + 1) if slots[-1] - slots[0] + 1 == len(slots) else None

    @cached_property
    def longest_single(self) -> int:
        """Positions that the longest of the single spans' slots holds, the new one included."""
        return max(span.end for span in self.singles)

    @property
    def shortest_single(self) -> int:
        return min(span.end for span in self.singles)

    def _tensor(self, values: list[int]) -> Tensor:
        return torch.tensor(values, device=self._device)


def _ends(spans: Sequence[Span]) -> list[int]:
    ends, row = [], -1
    for span in spans:
        row += len(span.tokens)
        ends.append(row)
    return ends
