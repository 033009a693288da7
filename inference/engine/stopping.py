"""Stop strings, which may begin in one token and end in another."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["StopStrings"]


class StopStrings:
    """Looks for stop strings in a text that comes in pieces, and holds back what may be the beginning of one.

    The match that ends first wins, and of those the one that begins first: so the result does not depend on how the
    text was cut into pieces.
    """

    __slots__ = ("_held", "_prefixes", "_stops")

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        longest = max((len(stop) for stop in stops), default=0)
        # Entry k - 1 holds the beginnings of length k: proper ones, the whole string being a match and not a beginning.
        self._prefixes = [tuple({stop[:k] for stop in stops if len(stop) > k}) for k in range(1, longest)]

    def feed(self, text: str) -> tuple[str, bool]:
        """The text that may be shown, and whether a stop string was found: then no more is to be fed."""
        if not self._stops:
            return text, False
        if not text:
            return "", False
        text = self._held + text
        matches = [(start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0]
        if matches:
            self._held = ""
            return text[: min(matches)[1]], True
        held = 0
        for length in range(min(len(self._prefixes), len(text)), 0, -1):
            if text.endswith(self._prefixes[length - 1]):
                held = length
                break
        shown = len(text) - held
        self._held = text[shown:]
        return text[:shown], False

    def flush(self) -> str:
        """What was held back, now that no text will follow."""
        held, self._held = self._held, ""
        return held
