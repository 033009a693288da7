"""Every single-field mutation of a GGUF file, and every truncation at a boundary of its structure.

A field is what the format calls one: a magic, a count, a length, a type, a value, a dimension, an offset. The walk over
them is written from the format's specification, apart from the reader that it tests.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Field", "Mutation", "fields", "mutations"]

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
STRING, ARRAY = 8, 9
TENSOR_COUNT, KEY_COUNT = 8, 16
"""Where the file's two counts are."""
FEW = 6
"""Elements of an array that are mutated one by one: its first and last ones."""


class Field(NamedTuple):
    """Bytes of the file that mean one thing."""

    name: str
    start: int
    size: int
    kind: str
    """"count", "length", "type", "whole", "real", "text"."""


@dataclass(frozen=True)
class Mutation:
    """A file with one change. Its bytes are made when they are asked for: there are tens of thousands."""

    name: str
    original: bytes
    start: int
    end: int
    """Where the bytes are that give way."""
    changed: bytes = b""
    counter: tuple[int, int] | None = None
    """Where a count is that changes with them, and by how much."""

    @property
    def data(self) -> bytes:
        data = self.original[: self.start] + self.changed + self.original[self.end :]
        if self.counter is None:
            return data
        at, more = self.counter
        count = struct.unpack_from("<Q", self.original, at)[0] + more
        return data[:at] + struct.pack("<Q", count) + data[at + 8 :]


def mutations(data: bytes) -> Iterator[Mutation]:
    """All of them, by fields as they come, then the truncations."""
    found, entries = _walk(data)
    for field in found:
        original = data[field.start : field.start + field.size]
        for what, changed in _changes(field, original):
            if changed != original:
                yield Mutation(f"{field.name}: {what}", data, field.start, field.start + field.size, changed)
    for name, start, end in entries:
        at = TENSOR_COUNT if name.startswith("tensor ") else KEY_COUNT
        yield Mutation(f"{name}: left out", data, start, end, counter=(at, -1))
        yield Mutation(f"{name}: twice", data, end, end, data[start:end], counter=(at, +1))
    for boundary in sorted({field.start for field in found} | {field.start + field.size for field in found}):
        yield Mutation(f"cut at {boundary}", data, boundary, len(data))
    yield Mutation("cut by a byte", data, len(data) - 1, len(data))
    yield Mutation("without weights", data, max(end for _, _, end in entries), len(data))


def fields(data: bytes) -> list[Field]:
    """Of a sound file, in the file's order."""
    return _walk(data)[0]


# Changes --------------------------------------------------------------------------------------------------------------


def _changes(field: Field, original: bytes) -> Iterator[tuple[str, bytes]]:
    bits = 8 * field.size
    if field.kind == "text":
        yield from _texts(original)
    elif field.kind == "real":
        form = "<f" if field.size == 4 else "<d"
        for value in (0.0, -1.0, 1e-30, 1e30, float("inf"), float("-inf"), float("nan")):
            yield str(value), struct.pack(form, value)
    elif field.kind == "type":
        for value in (*range(14), 39, 255, 2**32 - 1):
            yield str(value), value.to_bytes(field.size, "little")
    else:
        value = int.from_bytes(original, "little")
        others = {0, 1, 2, 3, 7, 255, 65_535, value - 1, value + 1, 2 * value, value // 2, 10**6}
        others |= {2**power for power in (bits - 1, bits // 2, bits - 8)} | {2**bits - 1, 2 ** (bits - 1) - 1}
        for other in sorted(others):
            if 0 <= other < 2**bits:
                yield str(other), other.to_bytes(field.size, "little")


def _texts(original: bytes) -> Iterator[tuple[str, bytes]]:
    """Of the same length, so that nothing else changes."""
    size = len(original)
    for what, filling in (
        ("zeros", b"\x00"),
        ("no UTF-8", b"\xff"),
        ("spaces", b" "),
        ("a surrogate", b"\xed\xa0\x80"),
        ("formats", b"%s%n{0}"),
        ("other letters", b"x"),
    ):
        yield what, (filling * (size // len(filling) + 1))[:size]
    if size > 1:
        yield "backwards", original[::-1]


# The walk -------------------------------------------------------------------------------------------------------------


class _Walker:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0
        self.fields: list[Field] = []

    def take(self, name: str, size: int, kind: str) -> int:
        self.fields.append(Field(name, self.position, size, kind))
        self.position += size
        return int.from_bytes(self.data[self.position - size : self.position], "little")

    def text(self, name: str) -> str:
        length = self.take(f"length of {name}", 8, "length")
        if length:
            self.take(name, length, "text")
        return self.data[self.position - length : self.position].decode("utf-8", "replace")

    def value(self, name: str, kind: int) -> None:
        if kind == STRING:
            self.text(name)
        elif kind == ARRAY:
            element = self.take(f"type of elements of {name}", 4, "type")
            count = self.take(f"count of {name}", 8, "count")
            for index in range(count):
                if index < FEW // 2 or index >= count - FEW // 2:
                    self.value(f"{name}[{index}]", element)
                else:
                    self.skip(element)
        else:
            self.take(name, _SIZES[kind], "real" if kind in (6, 12) else "whole")

    def skip(self, kind: int) -> None:
        seen = len(self.fields)
        self.value("", kind)
        del self.fields[seen:]


def _walk(data: bytes) -> tuple[list[Field], list[tuple[str, int, int]]]:
    """All fields; and where each key's and each tensor's entry begins and ends."""
    walker = _Walker(data)
    entries = []
    walker.take("magic", 4, "text")
    walker.take("version", 4, "whole")
    tensors = walker.take("count of tensors", 8, "count")
    keys = walker.take("count of keys", 8, "count")
    for index in range(keys):
        start = walker.position
        name = walker.text(f"name of key {index}")
        walker.value(name, walker.take(f"type of {name}", 4, "type"))
        entries.append((f"key {name}", start, walker.position))
    for index in range(tensors):
        start = walker.position
        name = walker.text(f"name of tensor {index}")
        dimensions = walker.take(f"dimensions of {name}", 4, "count")
        for dimension in range(dimensions):
            walker.take(f"dimension {dimension} of {name}", 8, "whole")
        walker.take(f"type of tensor {name}", 4, "type")
        walker.take(f"offset of {name}", 8, "whole")
        entries.append((f"tensor {name}", start, walker.position))
    return walker.fields, entries
