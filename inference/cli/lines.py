"""Lines of input, which may be of any length: what has no end is not waited for with all the memory that there is."""

from __future__ import annotations

from typing import BinaryIO

__all__ = ["LONGEST", "TOO_LONG", "read_line"]

LONGEST = 2**25
"""Bytes of a line, or of a prompt on standard input, that are taken."""
TOO_LONG = f"longer than {LONGEST >> 20} MiB"
"""What a line is that has more."""


def read_line(file: BinaryIO) -> tuple[bytes, bool]:
    """The next line with its line break, b"" at the end, and whether that is all of it: of a longer one than `LONGEST`
    only the beginning is kept, and the rest is skipped."""
    line = rest = file.readline(LONGEST + 1)
    if len(line) <= LONGEST:
        return line, True
    while rest and not rest.endswith(b"\n"):
        rest = file.readline(LONGEST)
    return line, False
