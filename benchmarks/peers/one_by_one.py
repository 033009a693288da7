"""Our own engine, given one prompt at a time: what batching has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from inference.measuring import Native, Session, Settings

__all__ = ["OneByOne"]


@dataclass(frozen=True, slots=True)
class OneByOne:
    """One of our engines, loaded for one sequence."""

    engine: Native
    ours: ClassVar[bool] = False

    @property
    def name(self) -> str:
        return f"{self.engine.name}, one by one"

    @property
    def packages(self) -> Sequence[str]:
        return self.engine.packages

    def reason_unavailable(self) -> str | None:
        return self.engine.reason_unavailable()

    def load(self, model: Path, settings: Settings) -> Session:
        return self.engine.load(model, settings)
