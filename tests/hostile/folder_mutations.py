"""Every value in the documents of a model folder changed, and in the headers of its weights.

A folder holds JSON: its configuration, its tokenizer, and the header of each file of weights (a length of eight bytes,
then JSON).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["FolderMutation", "folder_mutations"]

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 3, 7, 2**31, 2**63, 10**30, -0.5, 0.5, 1e300, 1e-300, float("nan"), float("inf")),
    *("", "x", "\0", "../../etc/passwd", "\ud800", "9" * 400, "F64", "Sequence", "BPE", "Unigram"),
    *([], {}, [None], [[]], {"type": "Sequence"}, [0, 2**62], [10, 5], [-1, 0], {"x": 0}),
)
"""What takes the place of a value."""
BYTES = (
    b"",
    b"{",
    b"null",
    b"[]",
    b"{}",
    b"\xff\xfe{}",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"1" * 10_000,
    b'{"a":1}x',
)
"""What takes the place of a document."""
FEW = 2
"""Elements of a list, or of many keys, that are changed: the first and the last ones."""
MANY = 40
"""Keys of a mapping from which on it is a vocabulary."""


class FolderMutation(NamedTuple):
    """One file of the folder, changed."""

    name: str
    file: str
    content: bytes

    def apply(self, folder: Path) -> bytes:
        """Write it; the bytes that were there."""
        path = folder / self.file
        before = path.read_bytes()
        path.write_bytes(self.content)
        return before


def folder_mutations(folder: Path) -> Iterator[FolderMutation]:
    """All of them, file by file."""
    for path in sorted(folder.glob("*.json")):
        data = path.read_bytes()
        yield from _of_bytes(path.name, data)
        for name, document in _of_document(json.loads(data)):
            yield FolderMutation(f"{path.name} {name}", path.name, json.dumps(document).encode())
    for path in sorted(folder.glob("*.safetensors")):
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        yield from _of_bytes(path.name, data)
        for wrong in (0, 1, length - 1, length + 1, len(data), 2**40, 2**63, 2**64 - 1):
            yield FolderMutation(f"{path.name}: a header of {wrong}", path.name, wrong.to_bytes(8, "little") + data[8:])
        for name, document in _of_document(json.loads(data[8 : 8 + length])):
            header = json.dumps(document).encode()
            changed = len(header).to_bytes(8, "little") + header + data[8 + length :]
            yield FolderMutation(f"{path.name} {name}", path.name, changed)


def _of_bytes(file: str, data: bytes) -> Iterator[FolderMutation]:
    for content in BYTES:
        yield FolderMutation(f"{file}: {content[:10]!r}, {len(content)} bytes", file, content)
    for end in (1, 8, len(data) // 2, len(data) - 1):
        yield FolderMutation(f"{file}: cut at {end}", file, data[:end])


def _of_document(document: Any) -> Iterator[tuple[str, Any]]:
    for place in _places(document):
        for odd in ODD:
            yield f"{place}: {str(odd)[:40]!a}", _changed(document, place, odd)
        yield f"without {place}", _changed(document, place, _changed)


def _places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if place:
        yield place
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    if len(keys) > (MANY if isinstance(value, dict) else 2 * FEW):
        keys = keys[:FEW] + keys[-FEW:]
    for key in keys:
        yield from _places(value[key], (*place, key))


def _changed(document: Any, place: tuple[Any, ...], odd: Any) -> Any:
    """A copy with another value there; without any, if that is this function itself."""
    copy = deepcopy(document)
    holder = copy
    for key in place[:-1]:
        holder = holder[key]
    if odd is _changed:
        del holder[place[-1]]
    else:
        holder[place[-1]] = odd
    return copy
