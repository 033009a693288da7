"""Random numbers that hang on a sequence's seed and a token's position alone, so that a step may be repeated, or run
ahead of what was read."""

from __future__ import annotations

__all__ = ["random_word"]

_MASK = (1 << 64) - 1
_STEP = 0x9E3779B97F4A7C15


def random_word(seed: int, position: int) -> int:
    """64 random bits. Source: SplitMix64, whose state after `position` steps from a mixed `seed` is mixed again."""
    return _mixed(_mixed(seed + _STEP) + position * _STEP)


def _mixed(state: int) -> int:
    state &= _MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
    return state ^ (state >> 31)
