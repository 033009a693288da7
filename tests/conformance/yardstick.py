"""How far a device backend may be from exact arithmetic on one file: as far as llama.cpp is, and no farther."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bare_llama import BareLlama

from conformance.decoder import Decoder
from conformance.files import rewrite
from conformance.near_ties import divergence

__all__ = ["Yardstick", "yardstick"]


@dataclass(frozen=True)
class Yardstick:
    """Mean KL divergence from exact arithmetic, in nats, and the share of positions with the same likeliest token."""

    own: tuple[float, float]
    """Of llama.cpp on the file."""
    as_q8_0: tuple[float, float]
    """Of llama.cpp on the same weights as Q8_0, whose rounding is that of a good 8-bit engine. What those weights lost
    on their way to Q8_0 counts too."""

    @property
    def bound(self) -> float:
        """The divergence that a device backend must not exceed on this file."""
        return max(self.own[0], self.as_q8_0[0])


def yardstick(path: Path, tokens: Sequence[int], scratch: Path) -> Yardstick:
    """Measured on every position of `tokens`. `scratch` is a folder for the file in Q8_0."""
    positions = range(len(tokens))
    exact = Decoder(path, context_length=len(tokens)).logits(tokens)
    as_q8_0 = scratch / "as_q8_0.gguf"
    rewrite(path, as_q8_0, "Q8_0")
    own, other = (divergence(exact, _logits(file, tokens, positions)) for file in (path, as_q8_0))
    as_q8_0.unlink()
    return Yardstick(own, other)


def _logits(path: Path, tokens: Sequence[int], positions: Sequence[int]) -> Any:
    llama = BareLlama(path, len(tokens))
    try:
        return llama.logits(tokens, positions)
    finally:
        llama.free()
