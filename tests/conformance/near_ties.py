"""The near-tie rule: when two engines may choose different tokens after the same text.

Two engines round differently, so where two tokens are almost equally likely their greedy texts may part. That is no
fault only if, in exact arithmetic, both tokens lie less below the likeliest one than the two engines' rounding moves
such gaps by at the other positions of the same text. How much an engine may round at all is the yardstick's to say
(`yardstick.py`); here it may differ from exact arithmetic at an eighth of the positions. Every parity test asks this
one function.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["NearTie", "divergence", "near_ties"]

Logits: TypeAlias = NDArray[Any]
"""(positions, vocabulary): after each position of one text."""


MOST_TIES = 1 / 8
"""Of the positions."""


@dataclass(frozen=True)
class NearTie:
    """A position at which an engine's likeliest token is not that of exact arithmetic."""

    position: int
    tokens: tuple[int, int]
    """What the two engines choose."""
    gap: float
    """How far, in exact arithmetic, the less likely of the two lies below the likeliest token of all."""
    rounding: float
    """What both engines together move such gaps by, elsewhere in the text."""


def near_ties(exact: Logits, one: Logits, other: Logits) -> list[NearTie]:
    """Where two engines do not both choose the token that exact arithmetic chooses, each shown to be a near-tie.

    All three are logits after the same tokens, so that texts are compared to their end though they part before it.
    `exact` is the numpy decoder's. What both engines get wrong alike is looked at too.

    Raises:
        AssertionError: logits are not finite; a gap is no smaller than the rounding; or so many positions differ that
            these engines round worse than any that may be called right.
    """
    for name, logits in (("exact arithmetic", exact), ("one engine", one), ("the other engine", other)):
        assert np.isfinite(logits).all(), f"the logits of {name} are not finite"
    right = exact.argmax(axis=-1)
    parted = (one.argmax(axis=-1) != right) | (other.argmax(axis=-1) != right)
    same = ~parted
    assert parted.mean() <= MOST_TIES, f"{parted.sum()} of {len(exact)} positions differ: that is no rounding"
    rounding = _rounding(exact[same], one[same]) + _rounding(exact[same], other[same])
    ties = [_tie(position, exact, one, other, rounding) for position in np.nonzero(parted)[0].tolist()]
    for tie in ties:
        assert tie.gap < rounding, (
            f"At position {tie.position} the tokens {tie.tokens} are {tie.gap:.3g} below the likeliest, and rounding "
            f"moves such gaps by {rounding:.3g} at most: these engines compute different models."
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
    logits = exact[position]
    gap = float(logits.max()) - min(float(logits[first]), float(logits[second]))
    return NearTie(position, (first, second), gap, rounding)


def _log_softmax(logits: Logits) -> Logits:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))
