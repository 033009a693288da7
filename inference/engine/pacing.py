"""How much of the prompts goes into one step, so that the step takes about as long as it may."""

from __future__ import annotations

__all__ = ["Pacing"]

BESIDE_STREAMS = 0.2
"""Seconds that a step may take while somebody waits for the next token."""
ALONE = 0.5
"""Seconds where nobody does: longer chunks compute faster, and a newcomer waits for no more than one."""
FIRST_CHUNK = 64
"""Tokens, before anything was measured."""
LEAST = 8
"""Tokens that are fed in any case: a prompt always goes on."""
QUICKEST = 1e-7
"""Seconds for a token: whatever is quicker was not measured well."""
WEIGHT = 0.5
"""Of the newest measurement in the moving averages: depth, and whatever else the machine does, change the rates."""


class Pacing:
    """Two moving averages, seconds for each fed token and for each decoding sequence, and what they allow.

    They are learned from the steps themselves: the rates depend on model, machine, block format and depth.
    """

    def __init__(self) -> None:
        self._per_token = 0.0
        self._per_sequence = 0.0

    def room(self, decoding: int) -> int:
        """How many prompt tokens the next step may take beside `decoding` sequences."""
        if not self._per_token:
            return FIRST_CHUNK
        seconds = BESIDE_STREAMS - decoding * self._per_sequence if decoding else ALONE
        return max(LEAST, int(seconds / max(self._per_token, QUICKEST)))

    def learn(self, seconds: float, tokens: int, decoding: int) -> None:
        """A step that fed `tokens` beside `decoding` sequences took so long."""
        if not tokens:
            if decoding:
                self._per_sequence = _averaged(self._per_sequence, seconds / decoding)
        elif tokens >= LEAST or not self._per_token:  # fewer say more about the step than about the token
            # Where the sequences' share is overestimated, some of the step is still the tokens'.
            share = max(seconds - decoding * self._per_sequence, seconds / (tokens + decoding) * tokens / 2)
            self._per_token = _averaged(self._per_token, share / tokens)


def _averaged(old: float, new: float) -> float:
    return new if not old else (1 - WEIGHT) * old + WEIGHT * new
