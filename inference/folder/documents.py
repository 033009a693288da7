"""The JSON documents of a folder, with getters that name the file and the key that are wrong."""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from inference.errors import CorruptFileError, ModelFileError

__all__ = ["Document", "damaged", "open_file", "read_document", "read_text"]

MAX_BYTES = 64 * 2**20
"""The longest document that is read; known ones stay below 2 MB. It bounds what a hostile file can cost."""
MAX_COUNT = 2**31 - 1
"""Engines count in 32 bits."""


class Document:
    """A JSON object. A key whose value is null counts as absent: it is how these files write that something is not set.

    The getters raise CorruptFileError, naming the file and the key, where a value has another type.
    """

    def __init__(self, path: Path, values: Mapping[str, Any]) -> None:
        self.path = path
        self.values = values

    def __contains__(self, key: object) -> bool:
        return key in self.values

    def text(self, key: str) -> str | None:
        """The string at `key`."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, str):
            raise self.wrong(key, "a string")
        return value

    def boolean(self, key: str) -> bool | None:
        """The truth value at `key`."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def count(self, *keys: str) -> int | None:
        """The whole number, 0 or more, at the first of `keys` that is there."""
        for key in keys:
            value = self.values.get(key)
            if value is not None:
                if not _is_count(value):
                    raise self.wrong(key, "a whole number from 0 on")
                return int(value)
        return None

    def counts(self, key: str) -> list[int] | None:
        """The whole numbers, 0 or more, at `key`: a list, or a single one."""
        value = self.values.get(key)
        if value is None:
            return None
        items = value if isinstance(value, list) else [value]
        if not all(map(_is_count, items)):
            raise self.wrong(key, "a whole number from 0 on, or a list of them")
        return items

    def section(self, key: str) -> Document | None:
        """The object at `key`."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.wrong(key, "an object")
        return Document(self.path, value)

    def wrong(self, key: str, wanted: str) -> CorruptFileError:
        """The error for a value of the wrong type."""
        try:
            found = repr(self.values[key])
        except RecursionError:
            found = "nested too deep"
        shown = found if len(found) <= 60 else f"{found[:60]}..."
        return damaged(self.path, f"`{key}` must be {wanted}, and is {shown}")


def read_document(path: Path, *, required: bool = True) -> Document:
    """The object in a JSON file; if it need not be there and is not, an empty one.

    Raises:
        ModelFileError: there is no such file, or the system refuses to read it.
        CorruptFileError: it holds no JSON object, or is too large for one of its kind.
    """
    text = read_text(path, required=required)
    if text is None:
        return Document(path, {})
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"it is no JSON ({error})") from error
    if not isinstance(values, dict):
        raise damaged(path, f"it must hold a JSON object, and holds {type(values).__name__}")
    return Document(path, values)


def read_text(path: Path, *, required: bool = True) -> str | None:
    """The text of a file, None if it need not be there and is not.

    Raises:
        ModelFileError, CorruptFileError: as `read_document`.
    """
    try:
        with open_file(path) as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        if not required:
            return None
        raise ModelFileError(f"{path} is missing; download the folder again.") from None
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror}.") from error
    if len(data) > MAX_BYTES:
        raise damaged(path, f"it has more than {MAX_BYTES:,} bytes")
    if data.startswith(b"version https://git-lfs"):
        raise damaged(path, "it is a Git LFS pointer", "`git lfs pull` fetches the file itself")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise damaged(path, f"it is no UTF-8 text ({error.reason} at byte {error.start:,})") from error


def open_file(path: Path) -> BinaryIO:
    """The file, to be read. A pipe, which would have to be waited for, is none.

    Raises:
        ModelFileError: it is no regular file.
        OSError: the system refuses to open it.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ModelFileError(f"{path} is no regular file; download it again.")
    return path.open("rb")


def damaged(path: Path, what: str, way_out: str = "Download it again") -> CorruptFileError:
    """The error for a file that contradicts its format."""
    return CorruptFileError(f"{path} is damaged: {what}. {way_out}.")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_COUNT
