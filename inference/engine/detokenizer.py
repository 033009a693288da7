"""Bytes of tokens to text, as they come."""

from __future__ import annotations

import codecs

__all__ = ["Detokenizer"]

_utf8_decoder = codecs.getincrementaldecoder("utf-8")


class Detokenizer:
    """Turns the bytes of one sequence into text, holding back the bytes of an incomplete character.

    The joined texts equal `joined_bytes.decode("utf-8", "replace")`: bytes that can never complete a character become
    U+FFFD as soon as that is certain (Unicode 15, section 3.9, maximal subparts).
    """

    __slots__ = ("_decode",)

    def __init__(self) -> None:
        self._decode = _utf8_decoder("replace").decode

    def feed(self, data: bytes) -> str:
        """The text that `data` completes, maybe empty."""
        return self._decode(data)

    def flush(self) -> str:
        """What the bytes still held come to, now that none will follow."""
        return self._decode(b"", True)
