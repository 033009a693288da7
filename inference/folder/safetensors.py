"""The header of a safetensors file: which tensors it holds, checked against the file.

The format: https://github.com/huggingface/safetensors#format. 8 bytes with the header's length, little-endian; the
header, a JSON object; the tensors, one behind the other without gaps.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from inference.errors import EmptyFileError, ModelFileError, TruncatedFileError
from inference.folder.documents import damaged, open_file

__all__ = ["StoredTensor", "read_tensors"]

MAX_HEADER_BYTES = 100_000_000
"""The format's own bound."""
MAX_DIMENSIONS = 8
LENGTH_BYTES = 8

_TYPES_BY_BITS = {
    4: "F4",
    6: "F6_E2M3 F6_E3M2",
    8: "BOOL U8 I8 F8_E5M2 F8_E4M3 F8_E8M0 F8_E4M3FNUZ F8_E5M2FNUZ",
    16: "U16 I16 F16 BF16",
    32: "U32 I32 F32",
    64: "U64 I64 F64 C64",
}
_BITS = {kind: bits for bits, kinds in _TYPES_BY_BITS.items() for kind in kinds.split()}
"""The types of the format."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """What a safetensors file says of one tensor."""

    name: str
    shape: tuple[int, ...]
    """In numpy's order: the dimension whose elements lie side by side comes last."""
    type: str
    """As the format calls it: "BF16", "F32", "U32", ..."""
    size_bytes: int
    path: Path
    """The file that holds it."""

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def read_tensors(path: Path) -> list[StoredTensor]:
    """The tensors of a file, in the order in which they lie there. Their values are not read.

    Raises:
        EmptyFileError: the file has no bytes.
        TruncatedFileError: it ends before what it announces.
        CorruptFileError: it contradicts itself or the format.
        ModelFileError: there is no such file, or the system refuses to read it.
    """
    try:
        with open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size == 0:
                raise EmptyFileError(f"{path} is empty; download it again.")
            length = _header_length(path, file.read(LENGTH_BYTES), size)
            header = file.read(length)
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror}.") from error
    return _parse(path, header, LENGTH_BYTES + length, size)


def _header_length(path: Path, start: bytes, size: int) -> int:
    if start == b"version ":
        raise damaged(path, "it is a Git LFS pointer", "`git lfs pull` fetches the weights themselves")
    if len(start) < LENGTH_BYTES:
        raise _truncated(path, size, "its first 8 bytes say how long its header is")
    length = int.from_bytes(start, "little")
    if length > MAX_HEADER_BYTES:
        raise damaged(path, f"it announces a header of {length:,} bytes, where {MAX_HEADER_BYTES:,} are the most")
    if LENGTH_BYTES + length > size:
        raise _truncated(path, size, f"its header at byte {LENGTH_BYTES + length:,}")
    return length


def _parse(path: Path, header: bytes, begin: int, size: int) -> list[StoredTensor]:
    try:
        entries = json.loads(header.decode())
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"its header is no JSON ({error})") from error
    if not isinstance(entries, dict):
        raise damaged(path, f"its header must be a JSON object, and is {type(entries).__name__}")
    entries.pop("__metadata__", None)
    placed = sorted((_place(path, name, entry) for name, entry in entries.items()), key=lambda place: place[0])
    end = 0
    for (start, stop), tensor in placed:
        if start != end:
            raise damaged(path, f"the tensor `{tensor.name}` begins at {start:,}, where {end:,} must be")
        end = stop
    if begin + end > size:
        raise _truncated(path, size, f"its tensors at byte {begin + end:,}")
    if begin + end < size:
        raise damaged(path, f"{size - begin - end:,} bytes lie behind its last tensor")
    return [tensor for _, tensor in placed]


def _place(path: Path, name: str, entry: Any) -> tuple[tuple[int, int], StoredTensor]:
    """Where a tensor's bytes lie, counted from the first tensor's, and what it is."""
    if not isinstance(entry, dict):
        raise damaged(path, f"the entry of tensor `{name}` is no object")
    kind, shape, place = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(kind, str) or kind not in _BITS:
        raise damaged(path, f"the tensor `{name}` has the unknown type {kind!r}")
    if not _are_sizes(shape) or len(shape) > MAX_DIMENSIONS:
        raise damaged(path, f"the tensor `{name}` has the shape {shape!r:.80}")
    if not _are_sizes(place) or len(place) != 2:
        raise damaged(path, f"the tensor `{name}` has the place {place!r:.80}")
    start, end = place
    bits = math.prod(shape) * _BITS[kind]
    if (end - start) * 8 != bits:
        takes = f"{shape} of {kind} take {-(-bits // 8):,}"
        raise damaged(path, f"the tensor `{name}` has {end - start:,} bytes, and {takes}")
    return (start, end), StoredTensor(name, tuple(shape), kind, end - start, path)


def _are_sizes(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value)


def _truncated(path: Path, size: int, what: str) -> TruncatedFileError:
    return TruncatedFileError(
        f"{path} ends at byte {size:,}, but {what}. It is incomplete or damaged: download it again."
    )
