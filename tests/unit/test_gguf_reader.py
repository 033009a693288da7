"""The GGUF reader on real files and on hand-made ones, sound and unsound."""

from __future__ import annotations

import ctypes
import os
import struct
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
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
    padded,
    text,
    write_model,
    write_shards,
)

from inference.errors import (
    CorruptFileError,
    EmptyFileError,
    ModelFileError,
    ModelIsDirectoryError,
    ModelNotFoundError,
    NotGGUFError,
    SplitFileError,
    TruncatedFileError,
    UnsupportedVersionError,
)
from inference.gguf.block_formats import BLOCK_FORMATS, REMOVED_FORMATS, block_format
from inference.gguf.reader import Header, read_header, require_language_model


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


@pytest.fixture
def read(path: Path) -> Callable[..., Header]:
    """Read a file with these keys and tensors."""

    def write_and_read(metadata: Any, tensors: Any = (), **options: Any) -> Header:
        path.write_bytes(gguf_bytes(metadata, tensors, **options))
        return read_header(path)

    return write_and_read


# Real files, beside the `gguf` package -------------------------------------------------------------------------------


def agree(path: Path) -> None:
    """Names, shapes, places, types and every value are what `gguf.GGUFReader` reads."""
    ours, theirs = read_header(path), gguf.GGUFReader(path)
    assert ours.alignment == theirs.alignment
    assert list(ours.tensors) == [tensor.name for tensor in theirs.tensors]
    for tensor, other in zip(ours.tensors.values(), theirs.tensors, strict=True):
        assert tensor.shape == tuple(other.shape.tolist())
        assert (tensor.type, tensor.offset) == (other.tensor_type.name, other.data_offset)
        assert (tensor.size_bytes, tensor.elements) == (other.n_bytes, other.n_elements)
    fields = {key: field for key, field in theirs.fields.items() if not key.startswith("GGUF.")}
    assert list(ours.metadata) == list(fields)
    for key, field in fields.items():
        value = ours.metadata[key]
        is_list = isinstance(value, tuple | array)
        assert (list(value) if is_list else value) == field.contents(), key
        assert ours.metadata.length(key) == (len(field.data) if is_list else None)


def test_smollm2_is_read_as_the_gguf_package_reads_it(smollm_path: Path) -> None:
    agree(smollm_path)


@pytest.mark.slow
def test_gemma_is_read_as_the_gguf_package_reads_it(gemma_path: Path) -> None:
    agree(gemma_path)


def test_smollm2_is_what_it_is_known_to_be(smollm_path: Path) -> None:
    header = read_header(smollm_path)
    require_language_model(header)
    assert (header.kind, header.architecture, header.quantization) == ("model", "llama", "Q4_1")
    assert (header.layers, header.embedding_length, header.train_context_length) == (30, 576, 8192)
    assert (header.head_count, header.head_count_kv) == (9, (3,) * 30)
    assert (header.key_length, header.value_length, header.vocabulary_size) == (64, 64, 49152)
    assert header.kv_bytes_per_token("f16") == 30 * 3 * (64 + 64) * 2
    assert header.parameters == 134_515_008
    assert header.chat_template is not None
    assert "<|im_start|>" in header.chat_template


def test_gemma_has_heads_of_its_own_length_and_no_template(gemma_path: Path) -> None:
    header = read_header(gemma_path)
    assert (header.architecture, header.layers, header.vocabulary_size) == ("gemma3", 18, 262_144)
    assert (header.key_length, header.embedding_length // header.head_count) == (256, 160)
    assert header.kv_bytes_per_token("f16") == 18 * 1 * (256 + 256) * 2
    assert header.chat_template is None


def test_every_tensor_of_a_real_file_is_where_the_header_says(smollm_path: Path) -> None:
    header = read_header(smollm_path)
    last = max(header.tensors.values(), key=lambda tensor: tensor.offset)
    assert padded(last.offset + last.size_bytes, header.alignment) == smollm_path.stat().st_size


# Block formats -------------------------------------------------------------------------------------------------------


def test_block_formats_have_the_ids_and_sizes_of_the_gguf_package() -> None:
    theirs = {kind.value: (kind.name, *gguf.GGML_QUANT_SIZES[kind]) for kind in gguf.GGMLQuantizationType}
    # The package still has a layout for Q8_1 that ggml gave up. No file holds that format; the next test has its size.
    theirs[9] = ("Q8_1", 32, 36)
    ours = {form.id: (form.name, form.elements, form.size_bytes) for form in BLOCK_FORMATS.values()}
    assert {number: ours.get(number) for number in theirs} == theirs
    assert not set(ours) & set(REMOVED_FORMATS)


def test_block_formats_have_the_names_and_sizes_of_the_installed_llama_cpp() -> None:
    bindings = pytest.importorskip("llama_cpp")
    libraries = sorted((Path(bindings.__file__).parent / "lib").glob("*ggml-base*"))
    if not libraries:
        pytest.skip("no ggml library beside llama_cpp")
    ggml = ctypes.CDLL(str(libraries[0]))
    ggml.ggml_type_name.restype = ctypes.c_char_p
    ggml.ggml_type_size.restype = ctypes.c_size_t
    ggml.ggml_blck_size.restype = ctypes.c_int64
    for form in BLOCK_FORMATS.values():
        assert ggml.ggml_type_name(form.id).decode().upper() == form.name
        assert (ggml.ggml_blck_size(form.id), ggml.ggml_type_size(form.id)) == (form.elements, form.size_bytes)
    for number in REMOVED_FORMATS:
        assert ggml.ggml_blck_size(number) == 0


def test_a_format_is_found_by_its_name_in_either_case() -> None:
    assert block_format("q4_K") is block_format("Q4_k") is BLOCK_FORMATS[12]


# Values --------------------------------------------------------------------------------------------------------------


def test_every_type_of_value_is_read(read: Callable[..., Header]) -> None:
    values = {
        "u8": (Typed(U8, 255), 255),
        "i8": (Typed(I8, -128), -128),
        "u16": (Typed(U16, 65535), 65535),
        "i16": (Typed(I16, -2), -2),
        "u32": (Typed(U32, 2**32 - 1), 2**32 - 1),
        "i32": (Typed(I32, -(2**31)), -(2**31)),
        "f32": (Typed(F32, 0.5), 0.5),
        "yes": (Typed(BOOL, 1), True),
        "no": (Typed(BOOL, 0), False),
        "string": (Typed(STRING, "né\n"), "né\n"),
        "u64": (Typed(U64, 2**64 - 1), 2**64 - 1),
        "i64": (Typed(I64, -(2**63)), -(2**63)),
        "f64": (Typed(F64, 0.1), 0.1),
        "strings": (["", "a", "é"], ("", "a", "é")),
        "truths": (array_of(BOOL, [1, 0]), (True, False)),
        "numbers": (array_of(I16, [-1, 2]), array("h", [-1, 2])),
        "reals": (array_of(F64, [0.1]), array("d", [0.1])),
        "none": (array_of(U32, []), array("I")),
        "nested": (
            array_of(ARRAY, [array_of(STRING, ["a", "bc"]), array_of(U8, [1]), array_of(ARRAY, [])]),
            (("a", "bc"), array("B", [1]), ()),
        ),
    }
    metadata = read({key: stored for key, (stored, _) in values.items()}).metadata
    assert dict(metadata) == {key: value for key, (_, value) in values.items()}
    assert {type(metadata[key]) for key in ("yes", "no")} == {bool}
    assert (metadata.type_name("u16"), metadata.type_name("strings")) == ("uint16", "array of string")
    assert (metadata.length("strings"), metadata.length("u8")) == (3, None)


def test_an_array_is_decoded_when_it_is_asked_for_and_only_once(read: Callable[..., Header]) -> None:
    header = read(MODEL, TENSORS)
    figures_but_values = (header.architecture, header.name, header.vocabulary_size, header.sampling_metadata)
    assert figures_but_values == ("llama", "Tiny", 4, {})
    assert "tokenizer.ggml.tokens" not in header.metadata._decoded
    assert header.metadata["tokenizer.ggml.tokens"] is header.metadata["tokenizer.ggml.tokens"]


def test_text_that_is_no_utf8_shows_where_it_is_wrong(read: Callable[..., Header]) -> None:
    assert read({"general.name": b"a\xffb"}).name == "a\ufffdb"


def test_a_missing_key_is_a_key_error(read: Callable[..., Header]) -> None:
    with pytest.raises(KeyError):
        read({}).metadata["absent"]


# The file is let go --------------------------------------------------------------------------------------------------


def test_everything_can_still_be_read_once_the_file_is_gone(path: Path) -> None:
    header = read_header(write_model(path))
    path.write_bytes(b"")
    path.unlink()
    assert header.metadata["tokenizer.ggml.tokens"] == ("<s>", "</s>", "a", "b")
    assert figures(header)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no list of open files in /proc")
def test_no_file_stays_open(path: Path) -> None:
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir()))
    headers = [read_header(write_model(path)) for _ in range(5)]
    path.write_bytes(path.read_bytes()[:-1])
    for _ in range(5):
        with pytest.raises(TruncatedFileError):
            read_header(path)
    assert len(list(descriptors.iterdir())) == before
    assert len(headers) == 5


# No such file, no GGUF -----------------------------------------------------------------------------------------------


def test_a_missing_file_is_named(path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"model\.gguf"):
        read_header(path)
    with pytest.raises(FileNotFoundError):
        read_header(str(path / "below" / "it"))


def test_a_directory_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelIsDirectoryError, match="directory"):
        read_header(tmp_path)


def test_an_empty_file_is_called_empty(path: Path) -> None:
    path.touch()
    with pytest.raises(EmptyFileError, match="empty"):
        read_header(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_refused_without_waiting_for_its_writer(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(NotGGUFError, match="regular file"):
        read_header(path)


def test_a_name_that_no_file_can_have_is_an_error_of_ours() -> None:
    for name in ("a\0b", "x" * 5000):
        with pytest.raises(ModelFileError):
            read_header(name)


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (b"{}", "begins with"),
        (b"GGUX" + bytes(40), "begins with"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"tjgg" + bytes(40), "older format"),
        (b"PK\x03\x04" + bytes(40), "convert"),
        (b"<!DOCTYPE html>", "web page"),
    ],
)
def test_a_file_of_another_format_is_refused_with_a_hint(path: Path, content: bytes, hint: str) -> None:
    path.write_bytes(content)
    with pytest.raises(NotGGUFError, match=hint):
        read_header(path)


@pytest.mark.parametrize("version", [0, 1, 4, 77])
def test_an_unknown_version_is_named(read: Callable[..., Header], version: int) -> None:
    with pytest.raises(UnsupportedVersionError, match=f"version {version}"):
        read(MODEL, version=version)


def test_version_2_is_read(read: Callable[..., Header]) -> None:
    assert read(MODEL, TENSORS, version=2).version == 2


def test_a_big_endian_file_is_called_that(path: Path) -> None:
    path.write_bytes(b"GGUF" + struct.pack(">IQQ", 3, 0, 0))
    with pytest.raises(UnsupportedVersionError, match="big-endian"):
        read_header(path)


# Damaged files -------------------------------------------------------------------------------------------------------


def test_a_truncated_file_is_refused_and_says_where_it_ends(path: Path) -> None:
    data = write_model(path).read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(TruncatedFileError, match=rf"ends at byte {len(data) - 1:,}.*output_norm\.weight"):
        read_header(path)
    path.write_bytes(data[: data.index(b"</s>")])
    with pytest.raises(TruncatedFileError, match=r"inside the value of `tokenizer\.ggml\.tokens`"):
        read_header(path)


@pytest.mark.parametrize(
    ("metadata", "options", "hint"),
    [
        ([("a", 1), ("a", 2)], {}, "`a` twice"),
        ([("", 1)], {}, "name of 0 bytes"),
        ([("k" * 70_000, 1)], {}, "name of 70,000 bytes"),
        ({"general.alignment": 0}, {}, "alignment of 0"),
        ({"general.alignment": 4}, {}, "alignment of 4"),
        ({"general.alignment": 48}, {}, "alignment of 48"),
        ({"general.alignment": "32"}, {}, "general.alignment"),
        ({"flag": Typed(BOOL, 2)}, {}, "truth value 2"),
        ({"flags": array_of(BOOL, [1, 0, 3])}, {}, "truth value 3"),
        ({}, {"key_count": 2**63}, "keys"),
        ({}, {"tensor_count": 2**64 - 1}, "tensors"),
    ],
)
def test_damaged_metadata_is_refused_by_what_is_wrong(
    read: Callable[..., Header], metadata: Any, options: dict[str, int], hint: str
) -> None:
    with pytest.raises(CorruptFileError, match=hint):
        read(metadata, **options)


@pytest.mark.parametrize("length", [2**16, 2**40, 2**63 - 1, 2**63, 2**64 - 1])
@pytest.mark.parametrize("where", ["string", "string in an array", "array", "array of strings", "array of arrays"])
def test_no_length_is_believed_that_the_file_cannot_hold(path: Path, length: int, where: str) -> None:
    big = struct.pack("<Q", length)
    value = {
        "string": struct.pack("<I", STRING) + big,
        "string in an array": struct.pack("<IIQ", ARRAY, STRING, 2) + text("ab") + big,
        "array": struct.pack("<II", ARRAY, U64) + big,
        "array of strings": struct.pack("<II", ARRAY, STRING) + big,
        "array of arrays": struct.pack("<II", ARRAY, ARRAY) + big,
    }[where]
    path.write_bytes(gguf_bytes({}, key_count=1) + text("a.key") + value + bytes(100))
    with pytest.raises(TruncatedFileError, match=r"a\.key"):
        read_header(path)


@pytest.mark.parametrize("kind", [struct.pack("<I", 13), struct.pack("<IIQ", ARRAY, 99, 0)])
def test_an_unknown_value_type_is_named(path: Path, kind: bytes) -> None:
    path.write_bytes(gguf_bytes({}, key_count=1) + text("a.key") + kind + bytes(100))
    with pytest.raises(CorruptFileError, match=r"unknown value type (13|99) in the value of `a\.key`"):
        read_header(path)


def test_arrays_may_be_nested_but_not_without_end(path: Path) -> None:
    deep = struct.pack("<I", ARRAY) + struct.pack("<IQ", ARRAY, 1) * 100_000
    path.write_bytes(gguf_bytes({}, key_count=1) + text("a.key") + deep)
    with pytest.raises(CorruptFileError, match="nested"):
        read_header(path)


def test_a_key_that_is_no_utf8_is_refused(path: Path) -> None:
    path.write_bytes(gguf_bytes({}, key_count=1) + text(b"\xff\xfe") + bytes(100))
    with pytest.raises(CorruptFileError, match="UTF-8"):
        read_header(path)


@pytest.mark.parametrize(
    ("tensors", "hint"),
    [
        ([Tensor("a", (8,)), Tensor("a", (8,))], "`a` twice"),
        ([Tensor("a", (1, 1, 1, 1, 1))], "5 dimensions"),
        ([Tensor("a", (33,), "Q4_0")], "rows of 33"),
        ([Tensor("a", (8, 32), "Q4_0")], "rows of 8"),
        ([Tensor("a", (), "Q4_0")], "rows of 1"),
        ([Tensor("a", (32,), 43)], "unknown type 43"),
        ([Tensor("a", (32,), 31)], "Q4_0_4_4.*removed"),
        ([Tensor("a", (8,), offset=4)], "no multiple of the alignment"),
        ([Tensor("a", (64,)), Tensor("b", (64,), offset=32)], "`a` and `b` in the same place"),
        ([Tensor("b", (64,)), Tensor("a", (64,), offset=0)], "in the same place"),
        ([Tensor("a", (2**63, 2**63))], "impossible size"),
        ([Tensor("a", (8,), offset=2**64 - 32)], "impossible size"),
    ],
)
def test_a_damaged_tensor_is_refused_by_what_is_wrong(read: Callable[..., Header], tensors: Any, hint: str) -> None:
    with pytest.raises(CorruptFileError, match=hint):
        read(MODEL, tensors)


def test_weights_beyond_the_end_of_the_file_are_refused(read: Callable[..., Header]) -> None:
    with pytest.raises(TruncatedFileError, match="`a`"):
        read(MODEL, [Tensor("a", (2**40,))])


def test_the_files_own_alignment_is_kept(read: Callable[..., Header]) -> None:
    header = read(MODEL | {"general.alignment": 256}, TENSORS, alignment=256)
    assert header.alignment == 256
    assert all(tensor.offset % 256 == 0 for tensor in header.tensors.values())


def test_tensors_without_elements_or_dimensions_are_allowed(read: Callable[..., Header]) -> None:
    tensors = read(MODEL, [Tensor("none", (0, 3)), Tensor("one", ()), Tensor("all", (8, 1, 2, 3))]).tensors
    assert [tensor.elements for tensor in tensors.values()] == [0, 1, 48]


@pytest.mark.skipif(os.name != "posix", reason="needs sparse files")
def test_a_header_without_end_is_given_up(path: Path) -> None:
    length = 2**40
    path.write_bytes(gguf_bytes({}, key_count=1) + text("a.key") + struct.pack("<IQ", STRING, length))
    os.truncate(path, 2**41)
    with pytest.raises(CorruptFileError, match=r"`a\.key` going on past"):
        read_header(path)


# Split models --------------------------------------------------------------------------------------------------------


def test_the_shards_of_a_split_model_are_one_model(tmp_path: Path) -> None:
    whole = read_header(write_model(tmp_path / "whole.gguf"))
    paths = write_shards(tmp_path)
    header = read_header(paths[0])
    assert (header.path, header.paths) == (paths[0], tuple(paths))
    assert (header.size_bytes, header.parameters) == (whole.size_bytes, whole.parameters)
    assert set(header.tensors) == set(whole.tensors)
    assert {tensor.path for tensor in header.tensors.values()} == set(paths)
    for tensor in header.tensors.values():
        assert tensor.offset + tensor.size_bytes <= tensor.path.stat().st_size
    require_language_model(header)


def test_a_split_model_without_a_name_is_called_after_its_shards(tmp_path: Path) -> None:
    first, *_ = write_shards(tmp_path)
    first.write_bytes(first.read_bytes().replace(b"general.name", b"general.nome"))
    assert read_header(first).name == "tiny"


def test_another_shard_than_the_first_sends_to_the_first(tmp_path: Path) -> None:
    _, second, _ = write_shards(tmp_path)
    with pytest.raises(SplitFileError, match=r"shard 2 of 3.*tiny-00001-of-00003\.gguf"):
        read_header(second)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    first, _, third = write_shards(tmp_path)
    third.unlink()
    with pytest.raises(SplitFileError, match=r"tiny-00003-of-00003\.gguf is missing"):
        read_header(first)


def test_a_first_shard_under_another_name_asks_for_its_own(tmp_path: Path) -> None:
    first, *_ = write_shards(tmp_path)
    for name in ("model.gguf", "tiny-00001-of-00004.gguf", "tiny-00002-of-00003.gguf"):
        with pytest.raises(SplitFileError, match=r"-00001-of-00003\.gguf"):
            read_header(first.rename(tmp_path / name))
        (tmp_path / name).rename(first)


def test_a_shard_of_another_model_is_refused(tmp_path: Path) -> None:
    first, second, third = write_shards(tmp_path)
    second.write_bytes(third.read_bytes())
    with pytest.raises(SplitFileError, match=r"00002-of-00003\.gguf is not shard 2"):
        read_header(first)
    write_model(second)
    with pytest.raises(SplitFileError, match=r"00002-of-00003\.gguf is not shard 2"):
        read_header(first)


def test_a_shard_that_counts_otherwise_is_refused(tmp_path: Path) -> None:
    first, second, _ = write_shards(tmp_path)
    second.write_bytes(gguf_bytes({"split.no": Typed(U16, 1), "split.count": Typed(U16, 4)}, [TENSORS[1]]))
    with pytest.raises(SplitFileError, match=r"00002-of-00003\.gguf is not shard 2"):
        read_header(first)


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    first, second, _ = write_shards(tmp_path)
    metadata = {"split.no": Typed(U16, 1), "split.count": Typed(U16, 3)}
    second.write_bytes(gguf_bytes(metadata, [TENSORS[0]]))
    with pytest.raises(SplitFileError, match=r"token_embd\.weight"):
        read_header(first)


def test_the_number_of_tensors_must_be_the_one_announced(tmp_path: Path) -> None:
    first, second, _ = write_shards(tmp_path)
    metadata = {"split.no": Typed(U16, 1), "split.count": Typed(U16, 3)}
    second.write_bytes(gguf_bytes(metadata, [TENSORS[1]]))
    with pytest.raises(SplitFileError, match="announces 5 tensors, its 3 shards have 4"):
        read_header(first)


def test_a_truncated_shard_is_named(tmp_path: Path) -> None:
    first, second, _ = write_shards(tmp_path)
    second.write_bytes(second.read_bytes()[:-1])
    with pytest.raises(TruncatedFileError, match="00002-of-00003"):
        read_header(first)
