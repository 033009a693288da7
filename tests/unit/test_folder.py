"""Model folders: what is said of them before their weights, and what is said of those that cannot be loaded."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from folders import CHAT_TEMPLATE, CONFIG, write_folder, write_json
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from inference.errors import (
    CorruptFileError,
    EmptyFileError,
    InferenceError,
    ModelFileError,
    ModelIsDirectoryError,
    NotALanguageModelError,
    SplitFileError,
    TruncatedFileError,
    UnsupportedModelError,
)
from inference.folder import Folder, is_folder, read_folder
from inference.folder.safetensors import read_tensors
from inference.options import GenerateOptions

WEIGHTS = 384 * 64 * 2 + 2 * (64 * 64 * 2 + 32 * 64 * 2 + 128 * 64 * 3 + 2 * 64) + 64


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound folder that no test changes."""
    return write_folder(tmp_path_factory.mktemp("folders") / "tiny-llama").path


@pytest.fixture
def path(written: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(written, tmp_path / "tiny-llama"))


def changed(path: Path, file: str, **values: Any) -> Folder:
    """The folder, read after some keys of a JSON file were changed; None takes one away."""
    target = path / file
    content = (json.loads(target.read_text()) if target.exists() else {}) | values
    write_json(target, {key: value for key, value in content.items() if value is not None})
    return read_folder(path)


# What is read --------------------------------------------------------------------------------------------------------


def test_the_figures_of_a_folder(path: Path) -> None:
    folder = read_folder(path)
    assert (folder.name, folder.architecture, folder.quantization) == ("tiny-llama", "llama", "F32")
    assert (folder.layers, folder.vocabulary_size, folder.train_context_length) == (2, 384, 512)
    assert (folder.parameters, folder.size_bytes) == (WEIGHTS, 4 * WEIGHTS)
    assert folder.bytes_by_type == {"F32": 4 * WEIGHTS}
    assert folder.kv_bytes_per_token("f16") == 2 * 2 * 2 * 16 * 2
    assert folder.kv_bytes_per_token("f32") == 2 * folder.kv_bytes_per_token("f16")
    assert folder.chat_template == CHAT_TEMPLATE
    assert folder.config == CONFIG
    assert folder.paths == (path / "model.safetensors",)


def test_of_a_quantised_folder_weights_are_counted_and_not_words(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "q", quantized=True)
    assert (folder.quantization, folder.parameters) == ("4-bit", WEIGHTS)
    stored = sum(file.stat().st_size for file in folder.paths)
    assert 0 < stored - folder.size_bytes < 8192  # the header
    assert set(folder.bytes_by_type) == {"U32", "F32"}


def test_layers_with_bits_of_their_own_are_counted_with_these(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "q", quantized=True)
    own = {"group_size": 32, "bits": 4, "lm_head": {"group_size": 32, "bits": 8}, "model.norm": False}
    mixed = changed(folder.path, "config.json", quantization=own)
    assert mixed.parameters == WEIGHTS - 384 * 64 // 2  # the same words hold half as many


def test_a_folder_in_shards_has_the_tensors_of_all(tmp_path: Path, path: Path) -> None:
    folder = write_folder(tmp_path / "s", shards=3)
    whole = read_folder(path)
    assert [file.name for file in folder.paths] == [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    assert {tensor: found.shape for tensor, found in folder.tensors.items()} == {
        tensor: found.shape for tensor, found in whole.tensors.items()
    }
    (folder.path / "model.safetensors.index.json").unlink()
    assert read_folder(folder.path).parameters == WEIGHTS, "MLX needs no index"


def test_the_tensors_are_those_that_the_safetensors_library_reads(path: Path) -> None:
    folder = read_folder(path)
    with safe_open(path / "model.safetensors", "np") as file:
        assert folder.tensors.keys() == set(file.keys())
        for name, tensor in folder.tensors.items():
            part = file.get_slice(name)
            assert (list(tensor.shape), tensor.type) == (part.get_shape(), part.get_dtype())


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"quantization": {"group_size": 32, "bits": 4, "mode": "mxfp4"}}, "mxfp4"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "awq 4-bit"),
        ({"quantization_config": {"quant_method": "fp8"}}, "fp8"),
        ({"text_config": {"quantization_config": {"quant_method": "gptq", "bits": 8}}}, "gptq 8-bit"),
    ],
)
def test_what_the_weights_are_stored_as_is_said_in_a_word(path: Path, config: dict[str, Any], said: str) -> None:
    assert changed(path, "config.json", **config).quantization == said


def test_a_model_that_reads_images_has_its_language_models_figures(path: Path) -> None:
    text = {"num_hidden_layers": 3, "max_position_embeddings": 77, "head_dim": 8, "eos_token_id": 4}
    folder = changed(path, "config.json", model_type="gemma3", text_config=text, num_hidden_layers=None)
    assert (folder.architecture, folder.layers, folder.train_context_length) == ("gemma3", 3, 77)
    assert folder.kv_bytes_per_token() == 3 * 2 * 2 * 8 * 2
    assert 4 in folder.special_tokens.ends


def test_figures_that_the_config_leaves_out_come_from_the_tensors(path: Path) -> None:
    left_out = ("num_hidden_layers", "vocab_size", "num_attention_heads", "num_key_value_heads", "head_dim")
    folder = changed(path, "config.json", **dict.fromkeys(left_out))
    assert (folder.layers, folder.vocabulary_size) == (2, 384)
    assert folder.kv_bytes_per_token() == read_folder(path).kv_bytes_per_token() == 2 * 2 * 2 * 16 * 2


@pytest.mark.parametrize(
    ("config", "elements"),
    [
        ({"num_key_value_heads": None}, 2 * 2 * 4 * 16),
        ({"num_key_value_heads": [2]}, 2 * 2 * 2 * 16),
        ({"num_key_value_heads": [2, 1]}, 2 * 3 * 16),
        ({"head_dim": None}, 2 * 2 * 2 * 16),
        ({"v_head_dim": 4}, 2 * 2 * (16 + 4)),
        ({"kv_lora_rank": 24, "qk_rope_head_dim": 8}, 2 * 32),
    ],
)
def test_kv_memory_follows_the_kind_of_attention(path: Path, config: dict[str, Any], elements: int) -> None:
    folder = changed(path, "config.json", **config)
    assert folder.kv_elements_per_token == elements
    assert folder.config == json.loads((path / "config.json").read_text()), "reading changes nothing in it"


def test_in_hugging_faces_cache_a_folder_has_its_repositorys_name(written: Path, tmp_path: Path) -> None:
    snapshots = tmp_path / "models--some-org--tiny-chat" / "snapshots"
    shutil.copytree(written, snapshots / "0123abcd")
    assert read_folder(snapshots / "0123abcd").name == "tiny-chat"


def test_the_current_directory_has_a_name_too(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path)
    assert read_folder(".").name == "tiny-llama"


# Templates, tokens, sampling -----------------------------------------------------------------------------------------


def test_a_chat_template_in_a_file_of_its_own_comes_first(path: Path) -> None:
    (path / "chat_template.jinja").write_text("{{ 'own' }}")
    assert read_folder(path).chat_template == "{{ 'own' }}"


def test_of_named_templates_the_default_one_is_taken(path: Path) -> None:
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]
    assert changed(path, "tokenizer_config.json", chat_template=named).chat_template == "plain"
    assert changed(path, "tokenizer_config.json", chat_template=named[:1]).chat_template == "tools"
    two = [{"name": "rag", "template": "x"}, {"name": "tool_use", "template": "y"}]
    assert changed(path, "tokenizer_config.json", chat_template=two).chat_template is None


def test_a_processors_template_is_found_and_a_folder_may_have_none(path: Path) -> None:
    assert changed(path, "tokenizer_config.json", chat_template=None).chat_template is None
    write_json(path / "chat_template.json", {"chat_template": "processor's"})
    assert read_folder(path).chat_template == "processor's"


def test_every_id_that_ends_a_text_is_known_and_null_means_that_there_is_no_token(path: Path) -> None:
    special = changed(path, "config.json", eos_token_id=7, bos_token_id=5).special_tokens
    assert (special.bos, special.eos, special.ends) == (None, "<|im_end|>", (7, 301, 299))
    (path / "tokenizer_config.json").unlink()
    special = read_folder(path).special_tokens
    assert (special.bos, special.eos) == (5, 301)
    special = changed(path, "tokenizer_config.json", bos_token={"content": "<s>", "special": True}).special_tokens
    assert special.bos == "<s>"


@pytest.mark.parametrize(
    ("generation", "options"),
    [
        ({}, None),
        ({"do_sample": True}, GenerateOptions(temperature=1.0)),
        ({"temperature": 0.6, "top_p": 0.9}, GenerateOptions(temperature=0.6, top_p=0.9)),
        ({"top_k": 64}, GenerateOptions(temperature=1.0, top_k=64)),
        ({"do_sample": False, "temperature": 0.6}, None),
        ({"repetition_penalty": 1.1}, GenerateOptions(repeat_penalty=1.1, repeat_window=512)),
        ({"temperature": -3.0}, None),
        ({"temperature": "hot"}, None),
    ],
)
def test_sampling_defaults_are_options(
    path: Path, generation: dict[str, Any], options: GenerateOptions | None, caplog: pytest.LogCaptureFixture
) -> None:
    write_json(path / "generation_config.json", generation)
    folder = read_folder(path)
    assert folder.sampling == options
    assert folder.sampling_metadata == generation
    nonsense = generation.get("temperature") in (-3.0, "hot")
    assert ("sampling defaults are left out" in caplog.text) == nonsense


# What is refused -----------------------------------------------------------------------------------------------------


def header_of(length: int, header: bytes, size: int = 0) -> bytes:
    return struct.pack("<Q", length) + header + bytes(size)


def weights(path: Path, content: bytes) -> None:
    (path / "model.safetensors").write_bytes(content)


def tensor(**entry: Any) -> bytes:
    header = json.dumps({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | entry}).encode()
    return header_of(len(header), header, 8)


def shard_gone(path: Path) -> None:
    shutil.rmtree(path)
    write_folder(path, shards=2)
    (path / "model-00002-of-00002.safetensors").unlink()


def shard_gone_without_an_index(path: Path) -> None:
    shard_gone(path)
    (path / "model.safetensors.index.json").unlink()


def index_that_leads_away(path: Path) -> None:
    shard_gone(path)
    write_json(path / "model.safetensors.index.json", {"weight_map": {"x": "../other/model.safetensors"}})


def two_copies(path: Path) -> None:
    shutil.copy(path / "model.safetensors", path / "model-old.safetensors")


def only_pickles(path: Path) -> None:
    (path / "model.safetensors").rename(path / "pytorch_model.bin")


def only_gguf(path: Path) -> None:
    (path / "model.safetensors").rename(path / "tiny.gguf")


def an_adapter(path: Path) -> None:
    (path / "config.json").rename(path / "adapter_config.json")


def config(**values: Any) -> Callable[[Path], None]:
    return lambda path: write_json(path / "config.json", {**CONFIG, **values})


def file(name: str, content: str | bytes | None) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        if content is None:
            (path / name).unlink()
        else:
            (path / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return write


BAD: dict[str, tuple[Callable[[Path], Any], type[InferenceError], str]] = {
    "no config": (file("config.json", None), ModelIsDirectoryError, "is a directory without a config.json"),
    "an adapter": (an_adapter, NotALanguageModelError, "merge it into its base model"),
    "config is no JSON": (file("config.json", "{"), CorruptFileError, r"config\.json is damaged: it is no JSON"),
    "config is a list": (file("config.json", "[]"), CorruptFileError, "must hold a JSON object, and holds list"),
    "config is nested without end": (file("config.json", "[" * 100_000), CorruptFileError, "it is no JSON"),
    "config is no text": (file("config.json", b"\xff\xfe{}"), CorruptFileError, "no UTF-8 text .* at byte 0"),
    "config is a pointer": (file("config.json", "version https://git-lfs"), CorruptFileError, "`git lfs pull`"),
    "no model type": (config(model_type=None), CorruptFileError, "it has no `model_type`"),
    "model type is a number": (config(model_type=5), CorruptFileError, "`model_type` must be a string, and is 5"),
    "model type is a path": (config(model_type="../evil"), CorruptFileError, "`model_type` must be a name of letters"),
    "layers are text": (config(num_hidden_layers="2"), CorruptFileError, "`num_hidden_layers` must be a whole number"),
    "layers are true": (config(num_hidden_layers=True), CorruptFileError, "`num_hidden_layers` must be a whole number"),
    "too many layers": (config(num_hidden_layers=10**6), CorruptFileError, "1,000,000 layers"),
    "heads below zero": (config(num_attention_heads=-4), CorruptFileError, "`num_attention_heads` must be .* is -4"),
    "no tokens": (config(vocab_size=0), CorruptFileError, "it has no tokens"),
    "text config is text": (config(text_config="x"), CorruptFileError, "`text_config` must be an object"),
    "ends are text": (config(eos_token_id=["</s>"]), CorruptFileError, "`eos_token_id` must be .* list of them"),
    "no bits": (config(quantization={"group_size": 64}), CorruptFileError, "`quantization` must be .* with `bits`"),
    "absurd bits": (config(quantization={"bits": 99}), CorruptFileError, "`bits` must be between 1 and 32"),
    "code of its own": (config(model_file="model.py"), UnsupportedModelError, "wants the program 'model.py'"),
    "no weights": (file("model.safetensors", None), ModelFileError, r"no weights \(model\*\.safetensors\)"),
    "pickles": (only_pickles, ModelFileError, "pytorch_model.bin, a pickle, which can run any code"),
    "a GGUF file": (only_gguf, ModelIsDirectoryError, r"name the \.gguf file in it, such as tiny\.gguf"),
    "a missing shard": (shard_gone, SplitFileError, r"model-00002-of-00002\.safetensors is missing"),
    "a missing shard, no index": (
        shard_gone_without_an_index,
        SplitFileError,
        r"model-00002-of-00002\.safetensors is missing",
    ),
    "an index that leads away": (index_that_leads_away, CorruptFileError, "no safetensors file beside it"),
    "tensors twice": (two_copies, SplitFileError, "model.safetensors has the tensor .* and so has model-old"),
    "empty weights": (file("model.safetensors", b""), EmptyFileError, r"model\.safetensors is empty"),
    "weights of 5 bytes": (file("model.safetensors", b"12345"), TruncatedFileError, "ends at byte 5"),
    "an absurd header": (file("model.safetensors", b"\xff" * 99), CorruptFileError, "a header of 18,446,744,073,709"),
    "a pointer to weights": (file("model.safetensors", "version https://git-lfs"), CorruptFileError, "`git lfs pull`"),
    "a cut header": (file("model.safetensors", header_of(50, b"{}")), TruncatedFileError, "its header at byte 58"),
    "a header of words": (file("model.safetensors", header_of(4, b"what")), CorruptFileError, "its header is no JSON"),
    "a header of numbers": (file("model.safetensors", header_of(2, b"17")), CorruptFileError, "must be a JSON object"),
    "no tensors": (file("model.safetensors", header_of(2, b"{}")), CorruptFileError, "it holds no tensors"),
    "cut weights": (lambda path: weights(path, tensor()[:-1]), TruncatedFileError, "its tensors at byte"),
    "bytes too many": (lambda path: weights(path, tensor() + b"x"), CorruptFileError, "1 bytes lie behind"),
    "an unknown type": (lambda path: weights(path, tensor(dtype="Q4")), CorruptFileError, "unknown type 'Q4'"),
    "a type that is no name": (lambda path: weights(path, tensor(dtype=[])), CorruptFileError, "unknown type"),
    "a shape of text": (lambda path: weights(path, tensor(shape="2")), CorruptFileError, "has the shape '2'"),
    "a place backwards": (lambda path: weights(path, tensor(data_offsets=[8, 0])), CorruptFileError, "has -8 bytes"),
    "a shape too large": (lambda path: weights(path, tensor(shape=[3])), CorruptFileError, "8 bytes, and .* take 12"),
    "a shape too small": (lambda path: weights(path, tensor(shape=[1])), CorruptFileError, "8 bytes, and .* take 4"),
    "a gap": (lambda path: weights(path, tensor(data_offsets=[4, 12])), CorruptFileError, "begins at 4, where 0"),
    "no tokenizer": (file("tokenizer.json", None), ModelFileError, r"has no tokenizer\.json, and no other"),
    "tokenizer config is no JSON": (
        file("tokenizer_config.json", "nonsense"),
        CorruptFileError,
        r"tokenizer_config\.json is damaged",
    ),
    "a template that is a number": (
        file("tokenizer_config.json", '{"chat_template": 5}'),
        CorruptFileError,
        "`chat_template` must be a string",
    ),
    "templates without text": (
        file("tokenizer_config.json", '{"chat_template": [{"name": "default"}]}'),
        CorruptFileError,
        "`chat_template` must be a string, or a list of named templates",
    ),
    "a template in Latin-1": (file("chat_template.jinja", b"caf\xe9"), CorruptFileError, r"chat_template\.jinja is"),
    "generation config is no JSON": (file("generation_config.json", "{,}"), CorruptFileError, "it is no JSON"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_loaded_is_refused_with_the_file_and_the_reason(path: Path, what: str) -> None:
    spoil, error, said = BAD[what]
    spoil(path)
    with pytest.raises(error, match=said) as refused:
        read_folder(path)
    sentence = str(refused.value)
    assert type(refused.value) is error
    assert str(path) in sentence
    assert sentence.endswith(".")


def test_a_weight_file_cut_anywhere_is_refused_and_says_where_it_ends(path: Path) -> None:
    content = (path / "model.safetensors").read_bytes()
    for size in (1, 7, 8, 9, 500, len(content) // 2, len(content) - 1):
        weights(path, content[:size])
        with pytest.raises(TruncatedFileError, match=f"ends at byte {size:,}"):
            read_folder(path)


def test_other_safetensors_than_the_weights_are_named(path: Path) -> None:
    (path / "model.safetensors").rename(path / "consolidated.safetensors")
    with pytest.raises(ModelFileError, match=r"consolidated\.safetensors is not called so"):
        read_folder(path)


def test_an_index_left_beside_a_single_file_does_not_count(path: Path) -> None:
    write_json(path / "model.safetensors.index.json", {"weight_map": {"x": "model-00001-of-00009.safetensors"}})
    assert read_folder(path).parameters == WEIGHTS


def test_a_directory_is_a_folder_if_it_has_a_config(path: Path, tmp_path: Path) -> None:
    assert is_folder(path)
    assert not is_folder(tmp_path)
    assert not is_folder(path / "config.json")
    assert not is_folder(Path("\0"))


def test_code_in_the_folder_is_not_run(path: Path) -> None:
    for name in ("modeling_llama.py", "__init__.py", "tokenization.py"):
        (path / name).write_text("raise SystemExit('this was run')")
    folder = changed(path, "config.json", auto_map={"AutoModelForCausalLM": "modeling_llama.Llama"})
    assert folder.architecture == "llama"
    assert not list(path.glob("__pycache__"))


def test_a_file_that_the_system_does_not_let_us_read_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *mode: str) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ModelFileError, match=r"config\.json cannot be read: Permission denied\."):
        read_folder(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer_config.json"])
def test_a_pipe_is_refused_and_not_waited_for(path: Path, name: str) -> None:
    (path / name).unlink()
    os.mkfifo(path / name)
    with pytest.raises(ModelFileError, match="is no regular file"):
        read_folder(path)


def test_importing_it_imports_the_standard_library_alone() -> None:
    program = """
import sys
import inference.folder
print(sorted({name.partition(".")[0] for name in sys.modules} & {"numpy", "tokenizers", "safetensors", "mlx", "torch"}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Any file ------------------------------------------------------------------------------------------------------------

ANY_FILE = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SIZES = st.one_of(st.integers(-1, 40), st.just(2**63), st.none(), st.text(max_size=3))
ENTRIES = st.dictionaries(
    st.text(max_size=4),
    st.one_of(
        st.none(),
        st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(["F32", "U8", "F4", "X", 3, None]),
                "shape": st.lists(SIZES, max_size=3),
                "data_offsets": st.lists(SIZES, max_size=3),
            }
        ),
    ),
    max_size=4,
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 10**12), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=5,
)


@ANY_FILE
@given(entries=ENTRIES, data=st.binary(max_size=60))
def test_any_header_is_read_or_refused_and_tensors_lie_within_the_file(
    tmp_path: Path, entries: dict[str, Any], data: bytes
) -> None:
    header = json.dumps(entries).encode()
    file = tmp_path / "model.safetensors"
    file.write_bytes(header_of(len(header), header) + data)
    try:
        tensors = read_tensors(file)
    except ModelFileError as error:
        assert str(file) in str(error)
        return
    assert sum(tensor.size_bytes for tensor in tensors) == len(data)
    with safe_open(file, "np") as library:
        assert {tensor.name for tensor in tensors} == set(library.keys())


@ANY_FILE
@given(content=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    try:
        read_tensors(file)
    except ModelFileError as error:
        assert str(file) in str(error)


@ANY_FILE
@given(
    name=st.sampled_from(["config.json", "tokenizer_config.json", "generation_config.json"]),
    key=st.sampled_from(
        [
            *CONFIG,
            *("text_config", "quantization", "quantization_config", "eos_token_id", "bos_token", "eos_token"),
            *("chat_template", "add_bos_token", "kv_lora_rank", "do_sample", "temperature", "repetition_penalty"),
        ]
    ),
    value=JSON,
)
def test_any_value_in_a_document_is_read_or_refused(written: Path, name: str, key: str, value: Any) -> None:
    target = written / name
    before = target.read_bytes()
    try:
        write_json(target, json.loads(before) | {key: value})
        folder = read_folder(written)
        assert folder.layers >= 0
        assert folder.vocabulary_size > 0
        assert isinstance(folder.parameters, int)
        assert folder.kv_bytes_per_token() >= 0
    except (ModelFileError, UnsupportedModelError) as error:
        assert str(written) in str(error)
    finally:
        target.write_bytes(before)
