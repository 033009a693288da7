"""`read_header`: everything that a GGUF file says before its weights, checked against the file.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Nothing that the file claims (a count, a length,
an offset) is believed before the bytes that are really there bear it out. The file is mapped while it is read, and
closed before `read_header` returns.
"""

from __future__ import annotations

import math
import mmap
import os
import re
import stat
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from inference.errors import (
    CorruptFileError,
    EmptyFileError,
    ModelFileError,
    ModelIsDirectoryError,
    ModelNotFoundError,
    NotALanguageModelError,
    NotGGUFError,
    SplitFileError,
    TruncatedFileError,
    UnsupportedVersionError,
)
from inference.gguf.block_formats import BLOCK_FORMATS, REMOVED_FORMATS, BlockFormat
from inference.gguf.cursor import Cursor
from inference.gguf.header import Header, TensorInfo
from inference.gguf.values import Metadata, Stored, locate_value

__all__ = ["Header", "TensorInfo", "lend", "read_header", "require_language_model"]

MAX_HEADER_BYTES = 256 * 2**20
"""The longest header that is read; known ones stay below 20 MB. It bounds what a hostile file can cost."""
MAX_ENTRIES = 2**18
"""Most keys, and most tensors. Known files stay below 20,000."""
MAX_DIMENSIONS = 4
DEFAULT_ALIGNMENT = 32

_lent = threading.local()
_MAGIC = b"GGUF"
_SHARD_NAME = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)
_OTHER_FORMATS = (
    (b"version https://git-lfs", "a Git LFS pointer; `git lfs pull` fetches the model itself"),
    (b"tjgg", "in an older format of llama.cpp (GGJT); look for a GGUF file of the model"),
    (b"lmgg", "in an older format of llama.cpp (GGML); look for a GGUF file of the model"),
    (b"fmgg", "in an older format of llama.cpp (GGMF); look for a GGUF file of the model"),
    (b"PK\x03\x04", "a zip archive or a PyTorch checkpoint; convert the model to GGUF, or unpack it"),
    (b"<", "a web page; download the model again"),
)
_SHAPE_TYPE_OFFSET = tuple(struct.Struct(f"<{'Q' * dimensions}IQ") for dimensions in range(MAX_DIMENSIONS + 1))


def read_header(path: str | os.PathLike[str]) -> Header:
    """The header of a GGUF file, or of the split model whose first shard this is. Weights are not touched.

    Raises:
        ModelNotFoundError, ModelIsDirectoryError, EmptyFileError, NotGGUFError: there is no such file, or no GGUF.
        UnsupportedVersionError: neither version 2 nor 3, or big-endian.
        TruncatedFileError: the file ends before what it announces.
        CorruptFileError: it contradicts itself or the format.
        SplitFileError: it is not the first shard, or another one is missing or belongs elsewhere.
        ModelFileError: the system refuses to read it.
    """
    path = Path(path)
    lent: Header | None = getattr(_lent, "header", None)
    if lent is not None and lent.path == path:
        return lent
    first = _read_file(path)
    count = first.integer("split.count", 1)
    return first if count <= 1 else _join(first, count)


@contextmanager
def lend(header: Header) -> Iterator[None]:
    """Within the block, and on this thread, `read_header` of that path gives `header` and does not read again."""
    _lent.header = header
    try:
        yield
    finally:
        _lent.header = None


def require_language_model(header: Header) -> None:
    """Nothing, if the file can be loaded to generate text.

    Raises:
        NotALanguageModelError: it is of another kind.
        CorruptFileError: it does not name its architecture.
    """
    what = {
        "model": None,
        "projector": "a multimodal projector (mmproj), which only feeds images or sound to a language model; load "
        "the language model that it belongs to",
        "adapter": "an adapter (LoRA), which only changes a language model; merge it into its base model with "
        "llama.cpp's llama-export-lora and load the result",
        "control vector": "a control vector, which only steers a language model; load the language model itself",
        "imatrix": "an importance matrix, which only serves to quantise a language model; load the model itself",
        "vocabulary": "a vocabulary without weights; load the file that has the whole model",
    }[header.kind]
    if what is not None:
        raise NotALanguageModelError(f"{header.path} is {what}.")
    header.text("general.architecture")


# One file ------------------------------------------------------------------------------------------------------------


def _read_file(path: Path) -> Header:
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise ModelIsDirectoryError(f"{path} is a directory; name the .gguf file in it.")
        if not stat.S_ISREG(mode):
            raise NotGGUFError(f"{path} is no regular file; name a .gguf file.")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size == 0:
                raise EmptyFileError(f"{path} is empty; download it again.")
            with (
                mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as mapping,
                memoryview(mapping) as whole,
                whole[:MAX_HEADER_BYTES] as data,
            ):
                return _parse(Cursor(data, path, size))
    except ModelFileError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise ModelNotFoundError(f"There is no file {path}; check the path.") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ModelFileError(f"{path} cannot be read: {reason}.") from error


def _parse(cursor: Cursor) -> Header:
    path = cursor.path
    _check_magic(cursor)
    version = _check_version(cursor)
    tensor_count, key_count = cursor.u64(), cursor.u64()
    stored = _locate_metadata(cursor, key_count)
    metadata_end = cursor.position
    entries = _read_entries(cursor, tensor_count)
    metadata = Metadata(cursor.data[:metadata_end].tobytes(), stored)

    header = Header(path, (path,), version, DEFAULT_ALIGNMENT, metadata, MappingProxyType({}))
    alignment = header.integer("general.alignment", DEFAULT_ALIGNMENT)
    if alignment < 8 or alignment & (alignment - 1):
        raise cursor.corrupt(f"an alignment of {alignment}, where a power of two from 8 on must be")
    begin = -(-cursor.position // alignment) * alignment
    tensors = {name: _placed(cursor, begin, alignment, name, entry) for name, entry in entries.items()}
    _check_overlap(cursor, tensors)
    return replace(header, alignment=alignment, tensors=MappingProxyType(tensors))


def _check_magic(cursor: Cursor) -> None:
    start = cursor.data[:32].tobytes()
    if start.startswith(_MAGIC):
        cursor.take(len(_MAGIC))
    elif _MAGIC.startswith(start):
        raise cursor.overrun()
    else:
        what = next((what for magic, what in _OTHER_FORMATS if start.startswith(magic)), None)
        raise NotGGUFError(
            f"{cursor.path} is {what}." if what else f"{cursor.path} is no GGUF file: it begins with {start[:4]!r}."
        )


def _check_version(cursor: Cursor) -> int:
    version = cursor.u32()
    if version in (2, 3):
        return version
    swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
    if swapped <= 0xFFFF and version > 0xFFFF:
        way_out = "it is big-endian; convert it to little-endian with gguf_convert_endian.py of llama.cpp"
    elif version == 1:
        way_out = "version 1 was given up in 2023; convert the model again"
    else:
        way_out = f"version {version} is unknown, and 2 and 3 are read; update this package, or download the file again"
    raise UnsupportedVersionError(f"{cursor.path} cannot be read: {way_out}.")


def _locate_metadata(cursor: Cursor, count: int) -> Mapping[str, Stored]:
    _check_entries(cursor, count, "keys", smallest=14)
    stored: dict[str, Stored] = {}
    for index in range(count):
        cursor.inside = f"key {index + 1} of {count}"
        key = cursor.name()
        if key in stored:
            raise cursor.corrupt(f"the key `{key}` twice")
        cursor.inside = f"the value of `{key}`"
        stored[key] = locate_value(cursor)
    return stored


# Tensors -------------------------------------------------------------------------------------------------------------


class _Entry(NamedTuple):
    """What the file says about one tensor; the offset counts from the first byte of the weights."""

    shape: tuple[int, ...]
    form: BlockFormat
    offset: int


def _read_entries(cursor: Cursor, count: int) -> dict[str, _Entry]:
    _check_entries(cursor, count, "tensors", smallest=25)
    entries: dict[str, _Entry] = {}
    for index in range(count):
        cursor.inside = f"the entry of tensor {index + 1} of {count}"
        name = cursor.name()
        if name in entries:
            raise cursor.corrupt(f"the tensor `{name}` twice")
        dimensions = cursor.u32()
        if dimensions > MAX_DIMENSIONS:
            raise cursor.corrupt(f"{dimensions} dimensions in tensor `{name}`, where {MAX_DIMENSIONS} are the most")
        layout = _SHAPE_TYPE_OFFSET[dimensions]
        *shape, type_id, offset = layout.unpack_from(cursor.data, cursor.take(layout.size))
        entries[name] = _Entry(tuple(shape), _format(cursor, name, type_id), offset)
    return entries


def _check_entries(cursor: Cursor, count: int, of: str, smallest: int) -> None:
    cursor.inside = f"its list of {count:,} {of}"
    if count > MAX_ENTRIES:
        raise cursor.corrupt(f"{count:,} {of}, where {MAX_ENTRIES:,} are the most")
    cursor.check_count(count, smallest)


def _format(cursor: Cursor, name: str, type_id: int) -> BlockFormat:
    form = BLOCK_FORMATS.get(type_id)
    if form is not None:
        return form
    if type_id in REMOVED_FORMATS:
        found = f"the type {REMOVED_FORMATS[type_id]} in tensor `{name}`, which ggml has removed"
        raise CorruptFileError(f"{cursor.path} has {found}. Quantise the model again.")
    raise cursor.corrupt(f"the unknown type {type_id} in tensor `{name}`")


def _placed(cursor: Cursor, begin: int, alignment: int, name: str, entry: _Entry) -> TensorInfo:
    shape, form, offset = entry
    row = shape[0] if shape else 1
    if row % form.elements:
        raise cursor.corrupt(
            f"rows of {row:,} elements in tensor `{name}`, no multiple of {form.name}'s {form.elements}"
        )
    if offset % alignment:
        raise cursor.corrupt(f"the tensor `{name}` at {offset:,}, no multiple of the alignment {alignment}")
    size = form.bytes_for(math.prod(shape))
    end = begin + offset + size
    if end >= 2**63:
        raise cursor.corrupt(f"the impossible size of {size:,} bytes, or offset of {offset:,}, in tensor `{name}`")
    if end > cursor.file_size:
        raise TruncatedFileError(
            f"{cursor.path} ends at byte {cursor.file_size:,}, but the tensor `{name}` at byte {end:,}. It is "
            "incomplete or damaged: download it again."
        )
    return TensorInfo(name, shape, form.name, begin + offset, size, cursor.path)


def _check_overlap(cursor: Cursor, tensors: Mapping[str, TensorInfo]) -> None:
    by_place = sorted((tensor for tensor in tensors.values() if tensor.size_bytes), key=lambda tensor: tensor.offset)
    for one, next_one in pairwise(by_place):
        if one.offset + one.size_bytes > next_one.offset:
            raise cursor.corrupt(f"the tensors `{one.name}` and `{next_one.name}` in the same place")


# Split models --------------------------------------------------------------------------------------------------------


def _join(first: Header, count: int) -> Header:
    """The model whose first of `count` shards is `first`; the other shards lie beside it."""
    number = first.integer("split.no", 0)
    named = _SHARD_NAME.fullmatch(first.path.name)
    if number != 0:
        name = f"{named['stem']}-00001-of-{count:05}.gguf" if named else "whose name ends in -00001-of-..."
        raise SplitFileError(f"{first.path} is shard {number + 1} of {count}; load the first one, {name}.")
    if named is None or (int(named["number"]), int(named["count"])) != (1, count):
        wanted = f"-00001-of-{count:05}.gguf"
        raise SplitFileError(
            f"{first.path} is the first of {count} shards, so its name must end in {wanted}; rename it."
        )

    paths = tuple(first.path.with_name(f"{named['stem']}-{i + 1:05}-of-{count:05}.gguf") for i in range(count))
    for path in paths:
        if not path.is_file():
            raise SplitFileError(f"The shard {path} is missing; download all {count} into the same directory.")
    tensors = dict(first.tensors)
    for index, path in enumerate(paths[1:], 1):
        shard = _read_file(path)
        if shard.integer("split.no", -1) != index or shard.integer("split.count", 0) != count:
            raise SplitFileError(f"{path} is not shard {index + 1} of {count} of this model; download it again.")
        for name, tensor in shard.tensors.items():
            if name in tensors:
                raise SplitFileError(f"{path} has the tensor `{name}`, and so has {tensors[name].path}.")
            tensors[name] = tensor
    announced = first.integer("split.tensors.count", len(tensors))
    if announced != len(tensors):
        raise SplitFileError(f"{first.path} announces {announced:,} tensors, its {count} shards have {len(tensors):,}.")
    return replace(first, paths=paths, tensors=MappingProxyType(tensors))
