"""The figures that follow from a GGUF header, and the kinds of file that are no language model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf_files import (
    I32,
    MODEL,
    TENSORS,
    Typed,
    figures,
    gguf_bytes,
    write_model,
)

from inference.errors import (
    CorruptFileError,
    NotALanguageModelError,
    OptionValueError,
)
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


# Derived figures -----------------------------------------------------------------------------------------------------


def test_sizes_are_sums_over_the_tensors(path: Path) -> None:
    header = read_header(write_model(path))
    assert header.parameters == 64 * 4 + 2 * 64 * 64 + 2 * 64
    assert header.size_bytes == 64 * 4 // 32 * 34 + 2 * (64 * 64 // 32 * 18) + 2 * 64 * 4
    assert header.quantization == "Q4_0"
    assert header.tensors["token_embd.weight"].shape == (64, 4)


def test_offsets_count_from_the_beginning_of_the_file(path: Path) -> None:
    header = read_header(write_model(path))
    data = path.read_bytes()
    first, second, *_ = header.tensors.values()
    assert data[first.offset : first.offset + 5] == bytes(range(5))
    assert data[second.offset] == (second.offset - first.offset) % 251


def test_a_file_without_a_name_is_called_after_its_path(path: Path) -> None:
    assert read_header(write_model(path, {"general.name": None})).name == "model"


def test_one_figure_for_all_layers_or_one_for_each(path: Path) -> None:
    assert read_header(write_model(path)).head_count_kv == (2, 2)
    per_layer = {"llama.attention.head_count_kv": [2, 0], "llama.attention.head_count": [4, 8]}
    header = read_header(write_model(path, per_layer))
    assert (header.head_count, header.head_count_kv) == (8, (2, 0))
    assert read_header(write_model(path, {"llama.attention.head_count_kv": None})).head_count_kv == (4, 4)


def test_layers_without_kv_heads_cost_no_kv_memory(path: Path) -> None:
    header = read_header(write_model(path, {"llama.attention.head_count_kv": [2, 0]}))
    assert header.kv_bytes_per_token("f16") == 2 * (16 + 16) * 2


@pytest.mark.parametrize(
    ("kv_type", "expected"), [("f32", 4 * 128), ("f16", 2 * 128), ("q8_0", 4 * 34), ("q4_0", 4 * 18)]
)
def test_kv_memory_follows_the_type(path: Path, kv_type: str, expected: int) -> None:
    assert read_header(write_model(path)).kv_bytes_per_token(kv_type) == expected


def test_an_unknown_kv_type_is_named(path: Path) -> None:
    with pytest.raises(OptionValueError, match="q9_9"):
        read_header(write_model(path)).kv_bytes_per_token("q9_9")


def test_latent_attention_keeps_one_compressed_key(path: Path) -> None:
    latent = {
        "llama.attention.head_count_kv": 1,
        "llama.attention.key_length": 96,
        "llama.attention.value_length": 64,
        "llama.attention.key_length_mla": 24,
        "llama.attention.value_length_mla": 16,
    }
    assert read_header(write_model(path, latent)).kv_bytes_per_token("f16") == 2 * 96 * 2


def test_windowed_layers_may_have_shorter_keys_and_shared_layers_none(path: Path) -> None:
    changes = {
        "llama.block_count": 4,
        "llama.attention.key_length": 64,
        "llama.attention.value_length": 64,
        "llama.attention.key_length_swa": 32,
        "llama.attention.value_length_swa": 32,
        "llama.attention.sliding_window_pattern": [True, False, True, False],
        "llama.attention.shared_kv_layers": 1,
    }
    assert read_header(write_model(path, changes)).kv_bytes_per_token("f16") == 2 * 2 * 2 * (32 + 64 + 32)


def test_a_model_without_attention_needs_no_kv_memory(path: Path) -> None:
    bare = {"llama.attention.head_count": None, "llama.attention.head_count_kv": None}
    header = read_header(write_model(path, bare))
    assert (header.head_count, header.kv_bytes_per_token()) == (0, 0)


def test_sampling_values_come_as_they_are_stored(path: Path) -> None:
    sampling = {"general.sampling.temp": 0.5, "general.sampling.top_k": 40, "general.sampling.sequence": "kpt"}
    assert read_header(write_model(path, sampling)).sampling_metadata == {"temp": 0.5, "top_k": 40, "sequence": "kpt"}


@pytest.mark.parametrize(
    ("changes", "figure", "key"),
    [
        ({"llama.block_count": "two"}, "layers", "llama.block_count"),
        ({"llama.block_count": None}, "layers", "llama.block_count"),
        ({"llama.block_count": True}, "layers", "llama.block_count"),
        ({"llama.block_count": 2**31}, "layers", "llama.block_count"),
        ({"llama.context_length": Typed(I32, -1)}, "train_context_length", "llama.context_length"),
        ({"llama.attention.head_count_kv": [2]}, "head_count_kv", "llama.attention.head_count_kv"),
        ({"llama.attention.head_count_kv": ["2", "2"]}, "head_count_kv", "llama.attention.head_count_kv"),
        ({"llama.attention.head_count_kv": [-1, 2]}, "head_count_kv", "llama.attention.head_count_kv"),
        ({"tokenizer.ggml.tokens": "abc"}, "vocabulary_size", "tokenizer.ggml.tokens"),
        ({"tokenizer.chat_template": 5}, "chat_template", "tokenizer.chat_template"),
    ],
)
def test_a_missing_or_mistyped_figure_is_named_by_its_key(
    path: Path, changes: dict[str, Any], figure: str, key: str
) -> None:
    header = read_header(write_model(path, changes))
    with pytest.raises(CorruptFileError, match=f"{path}.*`{key}`"):
        getattr(header, figure)


def test_typed_getters_take_their_type_alone(read: Callable[..., Header]) -> None:
    header = read({"int": 5, "real": 0.5, "yes": True, "text": "t", "ints": [1, 2], "texts": ["a"], "truths": [True]})
    assert (header.integer("int"), header.real("real"), header.real("int")) == (5, 0.5, 5.0)
    assert (header.boolean("yes"), header.text("text")) == (True, "t")
    assert (list(header.integers("ints")), list(header.texts("texts"))) == ([1, 2], ["a"])
    assert (header.integer("absent", 7), header.text("absent", "")) == (7, "")
    wrong = [
        (header.integer, "yes"),
        (header.integer, "real"),
        (header.real, "text"),
        (header.boolean, "int"),
        (header.text, "int"),
        (header.integers, "texts"),
        (header.integers, "truths"),
        (header.integers, "text"),
        (header.texts, "ints"),
        (header.texts, "text"),
    ]
    for getter, key in wrong:
        with pytest.raises(CorruptFileError, match=key):
            getter(key)
    for getter in (header.integer, header.real, header.boolean, header.text, header.integers, header.texts):
        with pytest.raises(CorruptFileError, match="has no `absent`"):
            getter("absent")


# Files of other kinds ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metadata", "tensors", "kind", "hint"),
    [
        ({"general.architecture": "clip"}, TENSORS, "projector", "projector"),
        ({"general.architecture": "clip", "general.type": "mmproj"}, TENSORS, "projector", "projector"),
        ({"general.architecture": "llama", "general.type": "adapter"}, TENSORS, "adapter", "llama-export-lora"),
        ({"general.architecture": "llama", "adapter.type": "lora"}, TENSORS, "adapter", "llama-export-lora"),
        ({"general.architecture": "controlvector"}, TENSORS, "control vector", "control vector"),
        ({"general.type": "imatrix"}, TENSORS, "imatrix", "importance matrix"),
        ({"imatrix.chunk_count": 5}, TENSORS, "imatrix", "importance matrix"),
        (MODEL, (), "vocabulary", "without weights"),
    ],
)
def test_a_file_that_is_no_language_model_is_refused_by_what_it_is(
    read: Callable[..., Header], metadata: Any, tensors: Any, kind: str, hint: str
) -> None:
    header = read(metadata, tensors)
    assert header.kind == kind
    assert figures(header)
    with pytest.raises(NotALanguageModelError, match=hint):
        require_language_model(header)


def test_a_language_model_is_let_through(path: Path) -> None:
    require_language_model(read_header(write_model(path)))
    require_language_model(read_header(write_model(path, {"general.type": "model"})))


def test_a_model_that_does_not_name_its_architecture_is_refused(path: Path) -> None:
    header = read_header(write_model(path, {"general.architecture": None}))
    with pytest.raises(CorruptFileError, match=r"general\.architecture"):
        require_language_model(header)
