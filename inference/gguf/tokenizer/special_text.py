"""Special tokens in a text: found and cut out before anything is merged."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

__all__ = ["SpecialText", "SpecialTexts"]

_ASCII_SPACE = " \t\n\v\f\r"
_SPACES = re.compile(f"[{_ASCII_SPACE}]*")
_STEM = 3
"""Characters by which texts are grouped: thousands of special tokens share a few dozen beginnings."""


class SpecialText(NamedTuple):
    """A token that is read as such wherever its text stands."""

    text: str
    token: int
    swallows_before: bool = False
    """White space before it disappears."""
    swallows_after: bool = False
    """White space behind it disappears."""


class SpecialTexts:
    """Cuts text at special tokens as llama.cpp does (`tokenizer_st_partition`): one token after the other, those with
    more bytes first, each in all the text that is left. So a long token is found even where a shorter one begins before
    it. Tokens as long as each other go by their ids (llama.cpp leaves open which is first)."""

    def __init__(self, texts: Iterable[SpecialText]) -> None:
        stems: dict[str, list[tuple[int, SpecialText]]] = {}
        for rank, special in enumerate(sorted(texts, key=lambda special: -len(special.text.encode()))):
            stems.setdefault(special.text[:_STEM], []).append((rank, special))
        self._groups = [(_common_beginning([special.text for _, special in group]), group) for group in stems.values()]

    def cut(self, text: str) -> list[str | int]:
        """The text between special tokens, and their ids, in order; no piece of text is empty."""
        specials = self._present(text)
        if not specials:
            return [text] if text else []
        done: list[str | int] = []
        left: list[tuple[str | int, int]] = [(text, 0)]  # the last first, each with the first rank to look for
        while left:
            piece, first = left.pop()
            if isinstance(piece, str):
                rank = next((rank for rank in range(first, len(specials)) if specials[rank].text in piece), None)
                if rank is not None:
                    left += [(part, rank + 1) for part in reversed([*_cut(piece, specials[rank])])]
                    continue
            done.append(piece)
        return done

    def _present(self, text: str) -> list[SpecialText]:
        """The special tokens whose text is somewhere in `text`, in the order of cutting."""
        groups = (group for prefix, group in self._groups if prefix in text)
        return [special for _, special in sorted(entry for group in groups for entry in group if entry[1].text in text)]


def _common_beginning(texts: Sequence[str]) -> str:
    first, last = min(texts), max(texts)
    length = next((place for place, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return first[:length]


def _cut(text: str, special: SpecialText) -> Iterator[str | int]:
    start = 0
    while (place := text.find(special.text, start)) >= 0:
        before = text[start:place]
        if special.swallows_before:
            before = before.rstrip(_ASCII_SPACE)
        if before:
            yield before
        yield special.token
        start = place + len(special.text)
        if special.swallows_after:
            start = _SPACES.match(text, start).end()  # type: ignore[union-attr]  # it matches nothing, too
    if start < len(text):
        yield text[start:]
