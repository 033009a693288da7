"""The near-tie rule: when two engines may choose different tokens after the same text.

Two engines round differently, so where two tokens are almost equally likely their greedy texts may part. That is no
fault only if the gap between the two tokens, in exact arithmetic, is below what the two engines' rounding moves such
gaps by at the other positions of the same text. Every parity test asks this one function.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["NearTie", "divergence", "near_ties"]

Logits: TypeAlias = NDArray[Any]
"""(positions, vocabulary): after each position of one text."""


@dataclass(frozen=True)
class NearTie:
    """A position at which two engines' likeliest tokens differ."""

    position: int
    tokens: tuple[int, int]
    gap: float
    """Between the two tokens' logits, in exact arithmetic."""
    rounding: float
    """What both engines together move such gaps by, elsewhere in the text."""


def near_ties(exact: Logits, one: Logits, other: Logits) -> list[NearTie]:
    """Where the greedy choices of two engines differ over the same text, each shown to be a near-tie.

    All three are logits after the same tokens, so that the texts are compared to their end though they part before it.
    `exact` is the numpy decoder's.

    Raises:
        AssertionError: at some position the gap is no smaller than the rounding.
    """
    parted = np.nonzero(one.argmax(axis=-1) != other.argmax(axis=-1))[0]
    same = np.setdiff1d(np.arange(len(exact)), parted)
    assert len(same) > len(exact) / 2, f"the two agree on {len(same)} of {len(exact)} positions: that is no rounding"
    rounding = _rounding(exact[same], one[same]) + _rounding(exact[same], other[same])
    ties = [_tie(position, exact, one, other, rounding) for position in parted.tolist()]
    for tie in ties:
        assert tie.gap < rounding, (
            f"At position {tie.position} the tokens {tie.tokens} are {tie.gap:.3g} apart, and rounding moves such gaps "
            f"by {rounding:.3g} at most: these engines compute different models."
        )
    return ties


def divergence(exact: Logits, logits: Logits) -> tuple[float, float]:
    """How far an engine is from exact arithmetic: the mean KL divergence over the positions, in nats, and the share of
    positions with the same likeliest token."""
    right, wrong = (_log_softmax(np.asarray(one, np.float64)) for one in (exact, logits))
    kl = (np.exp(right) * (right - wrong)).sum(axis=-1)
    return float(kl.mean()), float((exact.argmax(axis=-1) == logits.argmax(axis=-1)).mean())


def _rounding(exact: Logits, logits: Logits) -> float:
    """The most by which an engine moves the gap between the two likeliest tokens."""
    two = np.argpartition(exact, -2, axis=-1)[:, -2:]
    moved = np.diff(np.take_along_axis(logits - exact, two, axis=-1), axis=-1)
    return float(np.abs(moved).max())


def _tie(position: int, exact: Logits, one: Logits, other: Logits, rounding: float) -> NearTie:
    first, second = int(one[position].argmax()), int(other[position].argmax())
    gap = abs(float(exact[position, first]) - float(exact[position, second]))
    return NearTie(position, (first, second), gap, rounding)


def _log_softmax(logits: Logits) -> Logits:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))
