"""The GGUF reader on any file at all: what is sound is read in full, everything else is refused by an error of ours."""

from __future__ import annotations

import os
import struct
from array import array
from pathlib import Path
from typing import Any

import pytest
from gguf_files import (
    ARRAY,
    BOOL,
    F32,
    F64,
    I8,
    I16,
    I32,
    I64,
    MODEL,
    STRING,
    TENSORS,
    U8,
    U16,
    U32,
    U64,
    Tensor,
    Typed,
    array_of,
    figures,
    gguf_bytes,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference.errors import (
    EmptyFileError,
    ModelFileError,
    TruncatedFileError,
)
from inference.gguf.block_formats import BLOCK_FORMATS
from inference.gguf.reader import read_header

same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
"""Examples overwrite one file in one folder, so that sharing it between them is meant."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


# Any file ------------------------------------------------------------------------------------------------------------

_numbers = {
    U8: st.integers(0, 255),
    I8: st.integers(-128, 127),
    U16: st.integers(0, 2**16 - 1),
    I16: st.integers(-(2**15), 2**15 - 1),
    U32: st.integers(0, 2**32 - 1),
    I32: st.integers(-(2**31), 2**31 - 1),
    F32: st.floats(width=32, allow_nan=False),
    BOOL: st.booleans(),
    STRING: st.text(max_size=300),
    U64: st.integers(0, 2**64 - 1),
    I64: st.integers(-(2**63), 2**63 - 1),
    F64: st.floats(allow_nan=False),
}
_kinds = st.sampled_from(sorted(_numbers))
_flat_arrays = _kinds.flatmap(
    lambda kind: st.lists(_numbers[kind], max_size=5).map(lambda items: array_of(kind, items))
)
_values = st.one_of(
    _kinds.flatmap(lambda kind: _numbers[kind].map(lambda value: Typed(kind, value))),
    _flat_arrays,
    st.lists(_flat_arrays, max_size=3).map(lambda arrays: array_of(ARRAY, arrays)),
)
_names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40)
_metadata = st.dictionaries(
    _names.filter(lambda name: not name.startswith(("general.", "split."))), _values, max_size=8
)
_tensors = st.lists(
    st.builds(
        lambda name, form, blocks, rest: Tensor(name, (blocks * form.elements, *rest), form.name),
        _names,
        st.sampled_from(sorted(BLOCK_FORMATS.values(), key=lambda form: form.id)),
        st.integers(0, 2),
        st.lists(st.integers(0, 3), max_size=3),
    ),
    max_size=5,
    unique_by=lambda tensor: tensor.name,
)


def plain(value: Any) -> Any:
    """A stored or decoded value as nested lists."""
    if isinstance(value, Typed):
        return plain(value.value)
    return [plain(item) for item in value] if isinstance(value, list | tuple | array) else value


@same_folder
@given(metadata=_metadata, tensors=_tensors, alignment=st.sampled_from([8, 32, 64]), version=st.sampled_from([2, 3]))
def test_what_was_written_is_what_is_read(
    path: Path, metadata: dict[str, Any], tensors: list[Tensor], alignment: int, version: int
) -> None:
    stored = metadata | {"general.alignment": alignment}
    path.write_bytes(gguf_bytes(stored, tensors, version=version, alignment=alignment))
    header = read_header(path)
    assert {key: plain(value) for key, value in header.metadata.items()} == {k: plain(v) for k, v in stored.items()}
    assert [(t.name, t.shape, t.size_bytes) for t in header.tensors.values()] == [
        (t.name, t.shape, t.size_bytes) for t in tensors
    ]
    assert header.alignment == alignment


SMALL = gguf_bytes(MODEL | {"nested": array_of(ARRAY, [array_of(BOOL, [1]), array_of(STRING, ["x"])])}, TENSORS)
HEADER_BYTES = SMALL.index(b"output_norm.weight") + 60


def read_or_refuse(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        header = read_header(path)
    except ModelFileError as error:
        assert str(path.parent) in str(error)
    else:
        assert figures(header)


def test_any_truncation_of_a_file_is_refused(path: Path) -> None:
    path.write_bytes(SMALL)
    for length in (*range(len(SMALL) - 1, HEADER_BYTES, -97), *range(HEADER_BYTES, -1, -1)):
        os.truncate(path, length)
        with pytest.raises(EmptyFileError if length == 0 else TruncatedFileError):
            read_header(path)


@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF])
def test_any_byte_of_a_header_may_be_wrong(path: Path, mask: int) -> None:
    for index in range(HEADER_BYTES):
        changed = bytearray(SMALL)
        changed[index] ^= mask
        read_or_refuse(path, bytes(changed))


@same_folder
@given(index=st.integers(0, HEADER_BYTES - 1), byte=st.integers(0, 255), end=st.integers(1, len(SMALL)))
def test_any_byte_may_be_any_other_and_the_file_end_anywhere(path: Path, index: int, byte: int, end: int) -> None:
    changed = bytearray(SMALL)
    changed[index] = byte
    read_or_refuse(path, bytes(changed))
    read_or_refuse(path, bytes(changed[:end]))


@same_folder
@given(content=st.binary(max_size=300), version=st.sampled_from([2, 3]), counts=st.tuples(*[st.integers(0, 9)] * 2))
def test_any_bytes_behind_a_sound_beginning_are_read_or_refused(
    path: Path, content: bytes, version: int, counts: tuple[int, int]
) -> None:
    read_or_refuse(path, b"GGUF" + struct.pack("<IQQ", version, *counts) + content)
