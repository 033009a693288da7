"""No file ends the process: it loads, or an error says what is wrong with it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from gguf_files import write_model

from hostile.mutations import fields, mutations
from hostile.tiny_files import ARCHITECTURES, tiny_file
from hostile.trials import Tally, sample, try_all
from inference import load_model
from inference.errors import CorruptFileError
from inference.gguf.header import Header
from inference.gguf.reader import read_header
from inference.gguf.soundness import _as_wide_as_the_model, require_sound
from inference.loading import read_model

pytestmark = pytest.mark.real_model

SEED = int(os.environ.get("HOSTILE_SEED", "0"))
COUNTS = {"llama_cpp": 600, "torch": 300, "metal": 200}
"""Files for each backend; `make fuzz` takes thousands."""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("backend", COUNTS)
def test_every_mutated_file_loads_or_is_refused_by_name(backend: str, tmp_path: Path) -> None:
    tally = Tally()
    for tally in try_all(sample(COUNTS[backend], SEED), tmp_path / "model.gguf", "by_load_model", backend):  # noqa: B007
        pass
    assert tally.bad == [], f"with HOSTILE_SEED={SEED}"
    assert sum(tally.came.values()) == COUNTS[backend]


@pytest.mark.parametrize("backend", COUNTS)
@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_the_file_that_is_mutated_is_sound(backend: str, architecture: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(tiny_file(architecture))
    device = "cpu" if backend == "metal" else None
    with load_model(path, backend=backend, device=device) as model:
        assert len(list(model.generate("the", max_tokens=3, ignore_eos=True))) == 3


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_field_of_every_architectures_file_is_changed(architecture: str) -> None:
    data = tiny_file(architecture)
    changed = {mutation.name.partition(": ")[0] for mutation in mutations(data)}
    assert {field.name for field in fields(data)} <= changed
    header = read_header_of(data)
    assert {f"tensor {name}" for name in header.tensors} | {f"key {key}" for key in header.metadata} <= changed


def read_header_of(data: bytes) -> Header:
    with TemporaryDirectory() as folder:
        path = Path(folder, "model.gguf")
        path.write_bytes(data)
        return read_header(path)


# What the reader does not see ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "values"), [("tokenizer.ggml.scores", [1.0]), ("tokenizer.ggml.token_type", [1, 1])])
def test_a_list_beside_the_vocabulary_that_is_too_short_is_refused_before_an_engine_reads_it(
    key: str, values: list[float], tmp_path: Path
) -> None:
    with pytest.raises(CorruptFileError, match=f"`{key}` has {len(values)} elements for 4 tokens"):
        load_model(write_model(tmp_path / "model.gguf", {key: values}))


@pytest.mark.parametrize("key", ["tokenizer.ggml.tokens", "tokenizer.ggml.merges", "tokenizer.ggml.token_type"])
def test_a_list_of_another_type_is_refused(key: str, tmp_path: Path) -> None:
    with pytest.raises(CorruptFileError, match=f"`{key}` must be an array of .*, and is array of float32"):
        load_model(write_model(tmp_path / "model.gguf", {key: [1.0] * 4}))


@pytest.mark.parametrize("value", [0, 1, 7, 2**32 - 1])
def test_ropes_that_turn_what_no_head_has_are_refused_at_which_llama_cpp_spins_or_aborts(
    value: int, tmp_path: Path
) -> None:
    path = tmp_path / "model.gguf"
    wanted = f"gemma3.rope.dimension_count: {value}"
    path.write_bytes(next(each.data for each in mutations(tiny_file("gemma3")) if each.name == wanted))
    with pytest.raises(CorruptFileError, match=f"`gemma3.rope.dimension_count` is {value}, where heads have 16"):
        load_model(path)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ("llama.embedding_length: 16", "the shape 32 x .*, and `llama.embedding_length` is 16"),
        ("llama.block_count: 3", "layer 2 has no tensors, and `llama.block_count` is 3"),
        ("dimension 0 of blk.1.attn_q.weight: 16", "`blk.1.attn_q.weight` has the shape 16 x 32"),
        ("dimension 1 of blk.0.ffn_down.weight: 1", "`blk.0.ffn_down.weight` has the shape 48 x 1, and"),
        ("dimension 1 of token_embd.weight: 7", "`token_embd.weight` has 7 rows for 264 tokens"),
        ("dimensions of token_embd.weight: 1", "damaged"),
    ],
)
def test_shapes_that_are_not_those_of_the_model_are_refused_before_any_engine(
    changed: str, told: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(next(each.data for each in mutations(tiny_file("llama")) if each.name == changed))
    with pytest.raises(CorruptFileError, match=told):
        read_model(path)


def test_dimensions_of_one_at_the_end_mean_nothing() -> None:
    header = read_header_of(tiny_file("llama"))
    longer = {name: replace(tensor, shape=(*tensor.shape, 1)) for name, tensor in header.tensors.items()}
    require_sound(replace(header, tensors=longer))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_of_each_architecture_every_matrix_is_checked(architecture: str) -> None:
    wide = _as_wide_as_the_model(architecture)
    names = {
        name.split(".", 2)[-1] if name.startswith("blk.") else name
        for name in read_header_of(tiny_file(architecture)).tensors
    }
    unchecked = {name for name in names if name not in wide and name.endswith(".weight") and "norm" not in name}
    assert unchecked <= {"output.weight", "attn_sinks.weight", "rope_freqs.weight"}, "fused ones apart"


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_hyper_parameter_that_is_no_finite_number_is_refused(value: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    wanted = f"llama.attention.layer_norm_rms_epsilon: {value}"
    path.write_bytes(next(each.data for each in mutations(tiny_file("llama")) if each.name == wanted))
    with pytest.raises(CorruptFileError, match=f"layer_norm_rms_epsilon` is {value}"):
        load_model(path)
