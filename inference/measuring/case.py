"""What is measured of a competitor: one kind of work, done again and again, a figure each time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from inference.measuring.competitor import Competitor

__all__ = ["ABSOLUTE", "Bar", "Case", "Repeat", "Sample"]

ABSOLUTE = ""
"""The key in `Case.bars` of the bar for our own figure; other keys are peers' names and bar the ratio ours / peer."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What one repeat gave."""

    value: float
    """In the case's unit."""
    work: str | None = ""
    """What was done, in a form that must be the same for all competitors of a round; None of one that chooses its
    tokens itself, so that only their number is agreed."""
    beside: Mapping[str, float] = field(default_factory=dict)
    """Further figures of the same repeat, by name and unit ("median gap, ms"). They explain; no bar is for them."""


Repeat = Callable[[int], Sample]
"""Does the work once. The argument counts the rounds from 0, the warm-up: work that a cache could answer must depend on
it."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A promise about a figure."""

    at_least: float | None = None
    at_most: float | None = None

    def met(self, value: float) -> bool:
        """Whether `value` keeps the promise."""
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    def __str__(self) -> str:
        low = f">= {self.at_least:g}" if self.at_least is not None else ""
        high = f"<= {self.at_most:g}" if self.at_most is not None else ""
        return " and ".join(part for part in (low, high) if part)


class Case(Protocol):
    """One kind of work on one model. A new case is one small class; it is pickled, so it holds plain data only."""

    @property
    def name(self) -> str: ...

    @property
    def model(self) -> Path | None:
        """The model file, or None if the case needs none."""

    @property
    def unit(self) -> str:
        """What the samples count: "tokens/s", "s", "ms"."""

    @property
    def isolated(self) -> bool:
        """Whether each competitor gets a process of its own, that lives as long as the cell. Engines in one process
        disturb each other: libgomp stops spinning in its barriers once the threads that all engines started outnumber
        the cores, and decoding takes two to three times as long."""

    @property
    def bars(self) -> Mapping[str, Bar]: ...

    def facts(self) -> Mapping[str, Any]:
        """The settings and sizes that belong beside the figures, as JSON takes them."""

    def reason_unsuited(self, competitor: Competitor) -> str | None:
        """Why the competitor cannot do this work, or None if it can."""

    def prepared(self, competitor: Competitor) -> AbstractContextManager[Repeat]:
        """Load what it takes, give the repeat, clean up. Entered in the competitor's own process if
        the case is isolated."""
