"""Stop strings, which may begin in one token and end in another."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import lru_cache

from inference.engine.trie import Trie

__all__ = ["StopStrings"]


class StopStrings:
    """Looks for stop strings in a text that comes in pieces, and holds back what may be the beginning of one.

    The match that ends first wins, and of those the one that begins first: so the result does not depend on how the
    text was cut into pieces. Each character is looked at once, however many strings there are.
    """

    __slots__ = ("_automaton", "_held", "_state")

    def __init__(self, stops: Sequence[str]) -> None:
        self._automaton = _automaton(tuple(stops)) if stops else None
        self._state = 0
        self._held = ""

    def feed(self, text: str) -> tuple[str, bool]:
        """The text that may be shown, and whether a stop string was found: then no more is to be fed."""
        automaton = self._automaton
        if automaton is None:
            return text, False
        held, text = len(self._held), self._held + text
        for position in range(held, len(text)):
            self._state = automaton.step(self._state, text[position])
            if length := automaton.matches[self._state]:
                self._held = ""
                return text[: position + 1 - length], True
        shown = len(text) - automaton.depths[self._state]
        self._held = text[shown:]
        return text[:shown], False

    def flush(self) -> str:
        """What was held back, now that no text will follow."""
        held, self._held = self._held, ""
        return held


class _Automaton:
    """Aho's and Corasick's (1975). A state is a node of the strings' trie: the longest one that the text ends with."""

    __slots__ = ("_shorter", "_ways", "depths", "matches")

    def __init__(self, strings: Sequence[str]) -> None:
        trie = Trie[str]()
        ends = [trie.add(string)[-1] for string in strings]
        self._ways = trie.ways
        self.depths = trie.depths
        """How many characters each state has."""
        self.matches = [0] * len(trie.ways)
        """The length of the longest whole string that each state ends with; 0 for none."""
        for end in ends:
            self.matches[end] = self.depths[end]
        self._shorter = [0] * len(trie.ways)
        """For each state, the longest one that it ends with, but for itself."""
        waiting = deque(self._ways[0].values())
        while waiting:
            state = waiting.popleft()
            shorter = self._shorter[state]
            self.matches[state] = self.matches[state] or self.matches[shorter]
            for character, longer in self._ways[state].items():
                self._shorter[longer] = self.step(shorter, character)
                waiting.append(longer)

    def step(self, state: int, character: str) -> int:
        """The state after one more character."""
        while state and character not in self._ways[state]:
            state = self._shorter[state]
        return self._ways[state].get(character, 0)


_automaton = lru_cache(maxsize=16)(_Automaton)
"""A service asks for the same stop strings again and again. The longest that there may be take 4.5 MB."""
