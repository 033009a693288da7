"""Regular expressions over llama.cpp's own Unicode classes.

A class such as `\\p{L}` has hundreds of ranges, and each library has it from another version of Unicode. So a text is
rewritten before it is split: every character beyond ASCII becomes one of at most 128 stand-ins, which says what classes
it is in. The patterns are then over 256 characters, and what they find has the same length in the text itself.
(llama.cpp: `unicode_regex_split`, where the stand-ins are one byte for each class.)
"""

from __future__ import annotations

import functools
import re
from bisect import bisect_right
from collections.abc import Mapping
from itertools import accumulate

from inference.gguf.tokenizer.character_table import RUNS, WHITESPACE

__all__ = ["Alphabet", "CodeRanges", "code_ranges"]

CodeRanges = tuple[tuple[int, int], ...]
"""First and last code points."""

_CLASSES = "OLNPSM"
_FIRST_STAND_IN = 0x80
_SPACE_STAND_IN = 0x0B
"""White space beyond ASCII becomes a vertical tab: white space, but neither a space nor a new line."""
_BEYOND_ASCII = re.compile("[^\0-\x7f]+")
_CLASS_NAME = re.compile(r"\\p\{(\w+)(?:-(\w+))?\}")


def code_ranges(text: str) -> CodeRanges:
    """Ranges as they are written here: "41-5A 61-7A B5", in hexadecimal digits."""
    return tuple((int(first, 16), int(last or first, 16)) for first, _, last in map(_partition, text.split()))


def _partition(item: str) -> tuple[str, str, str]:
    return item.partition("-")


class Alphabet:
    """The stand-ins of one pre-tokenizer: the classes L, N, P, S, M, and up to four `sets` of code points by name.

    A set never holds white space beyond ASCII, whatever its ranges say: llama.cpp replaces that before it looks.
    """

    def __init__(self, sets: Mapping[str, str] | None = None) -> None:
        self._sets = {name: code_ranges(ranges) for name, ranges in (sets or {}).items()}
        if len(_CLASSES) << len(self._sets) > 256 - _FIRST_STAND_IN:
            raise ValueError(f"{len(self._sets)} sets need more stand-ins than there are.")
        self._table = _StandIns(tuple(self._sets.values()))

    def stand_ins(self, text: str) -> str:
        """`text`, as long as it is, with a stand-in for each character beyond ASCII."""
        if text.isascii():
            return text
        return _BEYOND_ASCII.sub(lambda match: match[0].translate(self._table), text)

    def pattern(self, expression: str) -> re.Pattern[str]:
        """`expression` compiled for texts of stand-ins. Inside brackets it may name a class or a set, `\\p{L}`, or one
        without another, `\\p{L-Han}`, or `\\p{L-ASCII}`; `\\s` is all white space, `\\d` the ten digits of ASCII."""

        def members(match: re.Match[str]) -> str:
            left_out = self._members(match[2]) if match[2] else ""
            return "".join(re.escape(character) for character in self._members(match[1]) if character not in left_out)

        return re.compile(_CLASS_NAME.sub(members, expression), re.ASCII)

    def _members(self, name: str) -> str:
        """Every ASCII character and every stand-in of a class or set."""
        if name == "ASCII":
            return "".join(map(chr, range(_FIRST_STAND_IN)))
        count = len(_CLASSES) << len(self._sets)
        if name in self._sets:
            bit = list(self._sets).index(name)
            ascii_members = [code for code in range(_FIRST_STAND_IN) if _is_within(code, self._sets[name])]
            others = [number for number in range(count) if number >> bit & 1]
        else:
            ascii_members = [code for code in range(_FIRST_STAND_IN) if _class_of(code) == name]
            others = [number for number in range(count) if _CLASSES[number >> len(self._sets)] == name]
        return "".join(map(chr, [*ascii_members, *(_FIRST_STAND_IN + number for number in others)]))


class _StandIns(dict[int, int]):
    """What `str.translate` asks: the stand-in of each code point, found out when it is first seen."""

    def __init__(self, sets: tuple[CodeRanges, ...]) -> None:
        super().__init__((code, code) for code in range(_FIRST_STAND_IN))
        self._sets = sets

    def __missing__(self, code: int) -> int:
        if code in _whitespace():
            stand_in = _SPACE_STAND_IN
        else:
            number = _CLASSES.index(_class_of(code)) << len(self._sets)
            number |= sum(1 << bit for bit, ranges in enumerate(self._sets) if _is_within(code, ranges))
            stand_in = _FIRST_STAND_IN + number
        self[code] = stand_in
        return stand_in


def _is_within(code: int, ranges: CodeRanges) -> bool:
    return any(first <= code <= last for first, last in ranges)


def _class_of(code: int) -> str:
    starts, letters = _runs()
    return letters[bisect_right(starts, code) - 1]


@functools.cache
def _runs() -> tuple[list[int], str]:
    """Where each run begins, and its class."""
    runs = RUNS.split()
    return [0, *accumulate(int(run[1:], 16) for run in runs)], "".join(run[0] for run in runs)


@functools.cache
def _whitespace() -> frozenset[int]:
    return frozenset(int(code, 16) for code in WHITESPACE.split())
