"""The metadata of a GGUF file: where each value lies, and what it decodes to once somebody asks for it."""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum
from itertools import repeat
from typing import Any, NamedTuple, TypeAlias

from inference.gguf.cursor import Cursor, text_length_at

__all__ = ["Metadata", "Stored", "Value", "ValueType", "locate_value"]

Value: TypeAlias = bool | int | float | str | Sequence[Any]
"""A decoded value. Arrays of numbers are an `array.array`; those of strings, truth values and arrays are tuples."""

MAX_DEPTH = 4
"""How deep arrays may lie in arrays. The format sets no bound; no known file nests them at all."""


class ValueType(IntEnum):
    """The types of the format, with the names of its specification."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


_CODES = {
    ValueType.UINT8: "B",
    ValueType.INT8: "b",
    ValueType.UINT16: "H",
    ValueType.INT16: "h",
    ValueType.UINT32: "I",
    ValueType.INT32: "i",
    ValueType.FLOAT32: "f",
    ValueType.BOOL: "B",
    ValueType.UINT64: "Q",
    ValueType.INT64: "q",
    ValueType.FLOAT64: "d",
}
_SIZES = {kind: struct.calcsize("<" + code) for kind, code in _CODES.items()}

_TEXT_BYTES = 8
_ARRAY_BYTES = 12
"""What an empty string and an empty array take: the least that an element can be."""


class Stored(NamedTuple):
    """Where a value lies. For an array `element` is the type of its elements, `length` how many there are, and `offset`
    that of the first."""

    type: ValueType
    offset: int
    element: ValueType | None = None
    length: int = 1


def locate_value(cursor: Cursor) -> Stored:
    """Check the value that begins at the cursor and move over it, decoding nothing.

    Raises:
        CorruptFileError: its type is unknown, arrays are nested too deep, or a truth value is neither 0 nor 1.
        TruncatedFileError: it does not end within the file.
    """
    kind = _value_type(cursor)
    if kind is not ValueType.ARRAY:
        offset = cursor.position
        if kind is ValueType.STRING:
            cursor.take(cursor.u64())
        else:
            _take_numbers(cursor, kind, 1)
        return Stored(kind, offset)
    return _locate_array(cursor, 1)


def _locate_array(cursor: Cursor, depth: int) -> Stored:
    element = _value_type(cursor)
    count = cursor.u64()
    offset = cursor.position
    if element is ValueType.STRING:
        cursor.check_count(count, _TEXT_BYTES)
        cursor.skip_texts(count)
    elif element is ValueType.ARRAY:
        if depth == MAX_DEPTH:
            raise cursor.corrupt(f"arrays nested deeper than {MAX_DEPTH} in {cursor.inside}")
        cursor.check_count(count, _ARRAY_BYTES)
        for _ in repeat(None, count):
            _locate_array(cursor, depth + 1)
    else:
        _take_numbers(cursor, element, count)
    return Stored(ValueType.ARRAY, offset, element, count)


def _take_numbers(cursor: Cursor, kind: ValueType, count: int) -> None:
    start = cursor.take(count * _SIZES[kind])
    if kind is ValueType.BOOL:
        # The specification allows 0 and 1 alone.
        strange = cursor.data[start : cursor.position].tobytes().translate(None, b"\x00\x01")
        if strange:
            raise cursor.corrupt(f"the truth value {strange[0]} in {cursor.inside}")


def _value_type(cursor: Cursor) -> ValueType:
    number = cursor.u32()
    try:
        return ValueType(number)
    except ValueError:
        raise cursor.corrupt(f"the unknown value type {number} in {cursor.inside}") from None


class Metadata(Mapping[str, Value]):
    """Every key of a file with its value, in the file's order. A value is decoded when it is first asked for.

    It holds a copy of the header's bytes, so the file itself is no longer needed. Strings that are no UTF-8 come with
    U+FFFD in the place of the bytes that are wrong.
    """

    __slots__ = ("_data", "_decoded", "_stored")

    def __init__(self, data: bytes, stored: Mapping[str, Stored]) -> None:
        self._data = data
        self._stored = stored
        self._decoded: dict[str, Value] = {}

    def __getitem__(self, key: str) -> Value:
        """The value of `key`; KeyError if the file has no such key."""
        if key not in self._decoded:
            self._decoded[key] = self._value(self._stored[key])
        return self._decoded[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)

    def __contains__(self, key: object) -> bool:
        return key in self._stored

    def length(self, key: str) -> int | None:
        """Elements of the array at `key`, None if it is no array. Nothing is decoded.

        Raises:
            KeyError: the file has no such key.
        """
        stored = self._stored[key]
        return stored.length if stored.type is ValueType.ARRAY else None

    def stored_bytes(self) -> bytes:
        """The file from its beginning to the end of the last value."""
        return self._data

    def type_name(self, key: str) -> str:
        """The stored type of `key` in words: "uint32", "array of string". Nothing is decoded.

        Raises:
            KeyError: the file has no such key.
        """
        stored = self._stored[key]
        name = stored.type.name.lower()
        return name if stored.element is None else f"array of {stored.element.name.lower()}"

    def _value(self, stored: Stored) -> Value:
        if stored.element is not None:
            return self._array(stored.element, stored.length, stored.offset)[0]
        if stored.type is ValueType.STRING:
            return self._texts(1, stored.offset)[0][0]
        value: int | float = struct.unpack_from("<" + _CODES[stored.type], self._data, stored.offset)[0]
        return bool(value) if stored.type is ValueType.BOOL else value

    def _array(self, element: ValueType, count: int, offset: int) -> tuple[Sequence[Any], int]:
        """The array whose first element is at `offset`, and where it ends."""
        if element is ValueType.STRING:
            return self._texts(count, offset)
        if element is ValueType.ARRAY:
            return self._arrays(count, offset)
        end = offset + count * _SIZES[element]
        if element is ValueType.BOOL:
            return tuple(map(bool, self._data[offset:end])), end
        numbers = array(_CODES[element], self._data[offset:end])
        if sys.byteorder == "big":
            numbers.byteswap()
        return numbers, end

    def _arrays(self, count: int, offset: int) -> tuple[tuple[Sequence[Any], ...], int]:
        items = []
        for _ in repeat(None, count):
            element, length = struct.unpack_from("<IQ", self._data, offset)
            item, offset = self._array(ValueType(element), length, offset + _ARRAY_BYTES)
            items.append(item)
        return tuple(items), offset

    def _texts(self, count: int, offset: int) -> tuple[tuple[str, ...], int]:
        data, items = self._data, []
        for _ in repeat(None, count):
            start = offset + _TEXT_BYTES
            offset = start + text_length_at(data, offset)[0]
            items.append(data[start:offset].decode("utf-8", "replace"))
        return tuple(items), offset
