"""Words and their ids: what the merging of one word gives is remembered, since most words come again."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

__all__ = ["SPACE", "Words", "safe_words"]

SPACE = "\u2581"
"""How SentencePiece vocabularies write a space."""

_REMEMBERED = 1 << 16
"""Words, before the memory begins anew: about 15 MB."""
_LONGEST = 64
"""Characters of a word worth remembering."""
_BETWEEN_TOKENS = "\ud800"
"""A character that no token of a file can hold."""


class Words(ABC):
    """Turns words into ids, each by itself. Safe to call from many threads."""

    def __init__(self) -> None:
        self._known: dict[str, Sequence[int]] = {}

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids of `text`, which holds no special tokens."""

    @abstractmethod
    def merge(self, word: str) -> Sequence[int]:
        """Ids of one word, worked out."""

    def ids(self, words: Iterable[str]) -> list[int]:
        """Ids of all words, one after the other."""
        found: list[int] = []
        known = self._known
        for word in words:
            ids = known.get(word)
            if ids is None:
                ids = self.merge(word)
                if len(word) <= _LONGEST:
                    if len(known) >= _REMEMBERED:
                        known = self._known = {}
                    known[word] = ids
            found += ids
        return found


def safe_words(tokens: Iterable[str]) -> re.Pattern[str]:
    """An expression whose matches cut a text, with U+2581 for its spaces, where no merge can reach across.

    A merge makes a token. So text may be cut between two characters that stand side by side in no token: before a
    space, if no token has one behind the character before it, and at new lines, if tokens have them in runs only.
    """
    joined = _BETWEEN_TOKENS.join(tokens)
    before_space = set(re.findall(f"([^{_BETWEEN_TOKENS}{SPACE}]){SPACE}", joined))
    lines_apart = not re.search(rf"[^\n{_BETWEEN_TOKENS}]\n|\n[^\n{_BETWEEN_TOKENS}]", joined)
    line = r"\n" if lines_apart else ""
    expression = f"{SPACE}*[^{SPACE}{line}]+"
    if before_space:
        joint = "".join(map(re.escape, sorted(before_space)))
        expression += f"(?:(?<=[{joint}]){SPACE}+[^{SPACE}{line}]*)*"
    return re.compile(f"{expression}|{SPACE}+" + (r"|\n+" if lines_apart else ""))
