"""A place in the bytes of a GGUF header, and the checked reads that move it forward."""

from __future__ import annotations

import struct
from itertools import repeat
from pathlib import Path

from inference.errors import CorruptFileError, ModelFileError, TruncatedFileError

__all__ = ["Cursor", "text_length_at"]

MAX_NAME_BYTES = 65_535
"""The longest key or tensor name; the GGUF specification sets it for keys."""

text_length_at = struct.Struct("<Q").unpack_from
"""The length in bytes, as a tuple of one, of the string at an offset; its bytes follow these eight."""

_u32_at = struct.Struct("<I").unpack_from
_u64_at = struct.Struct("<Q").unpack_from


class Cursor:
    """Reads little-endian values one after another and never beyond the last byte.

    `data` may be less than the file (`file_size` bytes): then the header is not allowed to be longer. `inside` says in
    words what is being read, for the error.
    """

    __slots__ = ("data", "file_size", "inside", "path", "position")

    def __init__(self, data: memoryview, path: Path, file_size: int) -> None:
        self.data = data
        self.path = path
        self.file_size = file_size
        self.position = 0
        self.inside = "the fixed part of the header"

    @property
    def bytes_left(self) -> int:
        return len(self.data) - self.position

    def take(self, size: int) -> int:
        """Move over `size` bytes; returns the offset of the first."""
        start = self.position
        if size > len(self.data) - start:
            raise self.overrun()
        self.position = start + size
        return start

    def u32(self) -> int:
        value: int = _u32_at(self.data, self.take(4))[0]
        return value

    def u64(self) -> int:
        value: int = _u64_at(self.data, self.take(8))[0]
        return value

    def name(self) -> str:
        """A key or a tensor's name: UTF-8, not empty, not absurdly long."""
        length = self.u64()
        if not 0 < length <= MAX_NAME_BYTES:
            raise self.corrupt(f"a name of {length:,} bytes in {self.inside}")
        start = self.take(length)
        try:
            return self.data[start : start + length].tobytes().decode("utf-8")
        except UnicodeDecodeError:
            raise self.corrupt(f"a name in {self.inside} that is no UTF-8") from None

    def skip_texts(self, count: int) -> None:
        """Move over `count` strings.

        Vocabularies and merges make this the one hot loop of reading a header: the only check inside it is that of
        `unpack_from`, which refuses an offset beyond the data.
        """
        data, position, length_at = self.data, self.position, text_length_at
        try:
            for _ in repeat(None, count):
                position += length_at(data, position)[0] + 8
        except (struct.error, OverflowError):
            raise self.overrun() from None
        if position > len(data):
            raise self.overrun()
        self.position = position

    def check_count(self, count: int, smallest: int) -> None:
        """Refuse a count of things, each at least `smallest` bytes, that the bytes left cannot hold."""
        if count > self.bytes_left // smallest:
            raise self.overrun()

    def corrupt(self, found: str) -> CorruptFileError:
        return CorruptFileError(f"{self.path} is damaged: it has {found}. Download or convert it again.")

    def overrun(self) -> ModelFileError:
        if len(self.data) < self.file_size:
            return self.corrupt(f"{self.inside} going on past the first {len(self.data):,} bytes")
        return TruncatedFileError(
            f"{self.path} ends at byte {self.file_size:,}, inside {self.inside}. It is incomplete or damaged: "
            "download it again."
        )
