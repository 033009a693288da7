"""One of our engines as the peer of another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from inference.measuring import Native

__all__ = ["OtherEngine"]


@dataclass(frozen=True, slots=True)
class OtherEngine(Native):
    """Measured as `Native` is, but others are compared with it, and its own figure has no bar."""

    ours: ClassVar[bool] = False
