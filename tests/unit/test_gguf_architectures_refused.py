"""Files that an architecture's entry refuses: what is wrong is named, and no other exception comes out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from gguf_files import ARRAY, BOOL, F32, F64, I32, I64, STRING, U32, U64, Typed, array_of, write_model
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tiny_models import (
    EMBEDDING,
    EXPERT_KEYS,
    KEYS,
    LAYERS,
    PARTIAL_ROTARY,
    SCALE_KEYS,
    VOCABULARY,
    shapes_of,
    tiny_model,
)

from inference.errors import InferenceError, UnknownArchitectureError, UnsupportedModelError
from inference.gguf.architectures import ARCHITECTURES, config_of
from inference.gguf.reader import read_header

Changes: TypeAlias = dict[str, Any]
every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)
NAN, INFINITY = math.nan, math.inf


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


def refusal(
    path: Path,
    architecture: str,
    keys: Changes | None = None,
    shapes: Changes | None = None,
    kind: type[InferenceError] = InferenceError,
) -> str:
    """What is said of the file, which must be refused and named."""
    with pytest.raises(kind) as caught:
        config_of(tiny_model(path, architecture, keys, shapes))
    assert str(caught.value).startswith(f"{path} ")
    return str(caught.value).removeprefix(str(path))


def test_an_unknown_architecture_is_named_with_those_known_and_a_backend_for_it(path: Path) -> None:
    with pytest.raises(UnknownArchitectureError) as caught:
        config_of(read_header(write_model(path, {"general.architecture": "mamba"})))
    for wanted in (str(path), "'mamba'", '"llama_cpp"', *ARCHITECTURES):
        assert wanted in str(caught.value)


def test_a_file_that_names_no_architecture_is_refused(path: Path) -> None:
    with pytest.raises(UnknownArchitectureError, match="''"):
        config_of(read_header(write_model(path, {"general.architecture": None})))


# Tensors -------------------------------------------------------------------------------------------------------------


@every_architecture
def test_every_tensor_that_is_missing_is_named(architecture: str, path: Path) -> None:
    biases = {"attn_q.bias", "attn_k.bias", "attn_v.bias"}
    for name in shapes_of(architecture):
        if name.partition("blk.1.")[2] in biases or name.startswith("blk.0."):
            continue
        message = refusal(path, architecture, shapes={name: None}, kind=UnsupportedModelError)
        assert f"`{name}`" in message
        assert f"the architecture {architecture} needs" in message


@every_architecture
def test_every_tensor_of_another_shape_is_named_with_both_shapes(architecture: str, path: Path) -> None:
    for name, shape in shapes_of(architecture).items():
        wrong_shapes = {(shape[0] + 1, *shape[1:]), (*shape, 2), shape[:-1]}
        if name != "token_embd.weight":  # whose second dimension is the vocabulary's size
            wrong_shapes |= {(*shape[:-1], shape[-1] + 1), shape[::-1]}
        for wrong in wrong_shapes - {shape}:
            message = refusal(path, architecture, shapes={name: wrong}, kind=UnsupportedModelError)
            assert f"`{name}` in the shape {' x '.join(map(str, wrong)) or '()'}, where" in message
            assert f"say {' x '.join(map(str, shape))}." in message


@every_architecture
def test_a_tensor_that_nobody_would_use_is_named(architecture: str, path: Path) -> None:
    for name in ("blk.0.attn_q.scale", "blk.2.attn_norm.weight", "rope_freqs.bias", "blk.1.ffn_gate.3.weight"):
        message = refusal(path, architecture, shapes={name: (EMBEDDING,)}, kind=UnsupportedModelError)
        assert f"a tensor `{name}`, which the architecture {architecture} has no use for" in message


def test_several_useless_tensors_are_counted(path: Path) -> None:
    more: Changes = {"blk.0.a": (1,), "blk.0.b": (1,), "blk.0.c": (1,)}
    assert "a tensor `blk.0.a` and 2 more" in refusal(path, "llama", shapes=more)


def test_a_weight_may_not_lie_both_alone_and_in_a_fused_tensor(path: Path) -> None:
    message = refusal(path, "phi3", shapes={"blk.0.attn_k.weight": LAYERS["llama"]["attn_k.weight"]})
    assert "`blk.0.attn_k.weight`" in message


def test_a_missing_weight_is_named_with_the_tensor_that_could_have_held_it(path: Path) -> None:
    message = refusal(path, "llama", shapes={"blk.1.attn_q.weight": None})
    assert "no tensor `blk.1.attn_q.weight`, nor `blk.1.attn_qkv.weight` in its place" in message


def test_gemma2_has_no_output_of_its_own(path: Path) -> None:
    assert "`output.weight`" in refusal(path, "gemma2", shapes={"output.weight": (EMBEDDING, VOCABULARY)})


@pytest.mark.parametrize("architecture", sorted(set(ARCHITECTURES) - PARTIAL_ROTARY))
@pytest.mark.parametrize("dimensions", [0, 6, 10])
def test_a_rope_over_a_part_of_a_head_is_refused_where_heads_turn_whole(
    architecture: str, dimensions: int, path: Path
) -> None:
    message = refusal(path, architecture, {"rope.dimension_count": dimensions}, kind=UnsupportedModelError)
    assert f"`{architecture}.rope.dimension_count` = {dimensions} for heads of 8 elements" in message


@pytest.mark.parametrize("rows", [0, 1, VOCABULARY - 1])
def test_fewer_embeddings_than_tokens_are_refused(rows: int, path: Path) -> None:
    message = refusal(path, "llama", shapes={"token_embd.weight": (EMBEDDING, rows)})
    assert f"embeddings for {rows} tokens and a vocabulary of {VOCABULARY}" in message


def test_a_model_without_a_single_token_is_refused(path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="embeddings for 0 tokens"):
        config_of(tiny_model(path, "llama", shapes={"token_embd.weight": (EMBEDDING, 0)}, tokens=0))


# Hyper-parameters ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "keys", "said"),
    [
        ("llama", {"rope.scaling.type": "ntk"}, "type` = 'ntk'. They know none, linear, yarn, longrope"),
        ("llama", {"attention.causal": False}, "`llama.attention.causal` = false"),
        ("qwen3moe", {"nextn_predict_layers": 1}, "`qwen3moe.nextn_predict_layers` = 1, where at most 0 may be"),
        ("qwen3moe", {"expert_group_count": 2}, "`qwen3moe.expert_group_count` = 2, where at most 1 may be"),
        ("llama", {"attention.head_count_kv": 3}, "`llama.attention.head_count` = 4 for 3 KV heads"),
        ("llama", {"attention.head_count_kv": 8}, "`llama.attention.head_count` = 4 for 8 KV heads"),
        ("llama", {"attention.head_count": None}, "`llama.attention.head_count` = 0 for 2"),
        ("llama", {"attention.head_count": 48, "attention.head_count_kv": 48}, "48 KV heads and embeddings of 24"),
        ("llama", {"attention.value_length": 16}, "key_length` = 8 and `llama.attention.value_length` = 16, where"),
        ("gemma3", {"attention.key_length_swa": 16}, "key_length_swa` = 16, not that of the layers without a window"),
        ("llama", {"attention.head_count": [4, 2]}, "head_count` that differ from layer to layer: 4, 2."),
        ("llama", {"attention.head_count_kv": [2, 1]}, "head_count_kv` that differ from layer to layer: 2, 1."),
        ("llama", {"feed_forward_length": [20, 24]}, "feed_forward_length` that differ from layer to layer: 20, 24."),
        ("llama", {"block_count": 9, "feed_forward_length": list(range(20, 29))}, "22, 23, 24, 25, 26, 27 and more"),
        ("llama", {"feed_forward_length": [20]}, "`llama.feed_forward_length` as an array of length 1 for 2 layers"),
        ("llama", {"feed_forward_length": [20] * 3}, "feed_forward_length` as an array of length 3 for 2 layers"),
        ("llama", {"attention.head_count": [4] * 3}, "`llama.attention.head_count` must be one number for each of 2"),
        ("qwen3moe", {"expert_used_count": [1, 2]}, "expert_used_count` that differ from layer to layer: 1, 2."),
        ("qwen3moe", {"expert_used_count": 4}, "`qwen3moe.expert_count` = 3, of which 4 are used"),
        ("qwen3moe", {"expert_used_count": 0}, "`qwen3moe.expert_count` = 3, of which 0 are used"),
        ("qwen3moe", {"expert_used_count": None}, "= 3, of which 0 are used (`qwen3moe.expert_used_count`)"),
        ("qwen3moe", {"expert_count": None}, "`qwen3moe.expert_count` = 0, where at least 1 must be"),
        ("qwen2", EXPERT_KEYS, "`qwen2.expert_count` = 3, where qwen2 knows no experts"),
        ("llama", {"feed_forward_length": None}, "feed-forward networks of 0 elements (`llama.feed_forward_length`)"),
        ("gpt-oss", {"expert_feed_forward_length": 0}, "of 0 elements (`gpt-oss.expert_feed_forward_length`)"),
        ("gpt-oss", {"expert_feed_forward_length": None}, "no `gpt-oss.expert_feed_forward_length`"),
        ("gpt-oss", {"attention.sliding_window": None}, "no `gpt-oss.attention.sliding_window`"),
        ("gpt-oss", {"attention.sliding_window": 0}, "`gpt-oss.attention.sliding_window` = 0, where at least 1"),
        ("gemma2", {"attention.sliding_window": 0}, "`gemma2.attention.sliding_window` = 0, where at least 1"),
        ("llama", {"rope.dimension_count": 7}, "`llama.rope.dimension_count` = 7 for heads of 8 elements"),
        ("phi3", {"rope.dimension_count": 7}, "`phi3.rope.dimension_count` = 7 for heads of 8 elements"),
        ("phi3", {"rope.dimension_count": 10}, "`phi3.rope.dimension_count` = 10 for heads of 8 elements"),
        ("phi3", {"rope.dimension_count": 0}, "`phi3.rope.dimension_count` = 0 for heads of 8 elements"),
        ("gemma3", {"attention.sliding_window_pattern": [True]}, "of length 1, where a truth value for each of 2"),
        ("gemma3", {"attention.sliding_window_pattern": [True] * 3}, "of length 3, where a truth value for each of 2"),
        ("gemma3", {"attention.sliding_window_pattern": ["a", "b"]}, "as an array of string of length 2"),
        ("gemma3", {"attention.sliding_window_pattern": [0.5, 1.0]}, "as an array of float32 of length 2"),
        ("llama", {"rope.scaling.type": "yarn", "rope.scaling.factor": 0.5}, "YaRN with a factor of 0.5"),
        ("granite", {"logit_scale": None}, "no `granite.logit_scale`"),
        ("llama", {"block_count": 0}, "it has `llama.block_count` = 0, where at least 1 must be"),
        ("llama", {"block_count": 100_000}, "`llama.block_count` must be at most 65,536"),
    ],
)  # fmt: skip
def test_hyper_parameters_that_fit_no_model_are_refused(
    architecture: str, keys: Changes, said: str, path: Path
) -> None:
    assert said in refusal(path, architecture, keys)


WHOLE = dict.fromkeys(KEYS, "llama") | {
    "rope.dimension_count": "llama",
    "rope.scaling.original_context_length": "llama",
    "attention.sliding_window": "gpt-oss",
    "attention.sliding_window_pattern": "gpt-oss",
    "expert_count": "gpt-oss",
    "expert_used_count": "gpt-oss",
    "expert_feed_forward_length": "gpt-oss",
    "expert_shared_feed_forward_length": "qwen2moe",
}
"""Keys of whole numbers, each with an architecture that reads it."""
REAL = dict.fromkeys(SCALE_KEYS, "granite") | {
    "attention.layer_norm_rms_epsilon": WHOLE.pop("attention.layer_norm_rms_epsilon"),
    "rope.freq_base": WHOLE.pop("rope.freq_base"),
    "rope.freq_base_swa": "gemma2",
    "rope.scaling.factor": "llama",
    "rope.scale_linear": "llama",
    "rope.scaling.attn_factor": "llama",
    "attn_logit_softcapping": "gemma2",
    "final_logit_softcapping": "gemma2",
}
MAY_BE_HUGE = {
    "context_length",
    "rope.scaling.original_context_length",
    "attention.sliding_window",
    "attention.sliding_window_pattern",
}
MAY_BE_ZERO = MAY_BE_HUGE - {"context_length", "attention.sliding_window"}  # that of gpt-oss
NEVER_ZERO = {"rope.freq_base", "rope.freq_base_swa", "rope.scaling.attn_factor", "logit_scale"}


@pytest.mark.parametrize(("name", "architecture"), WHOLE.items())
def test_a_whole_number_that_cannot_be_is_refused(name: str, architecture: str, path: Path) -> None:
    values = [Typed(I32, -1), Typed(I64, -(2**63)), 2.0, "8", True, ["8"], [0.5, 0.5], array_of(ARRAY, [])]
    zero, huge = [] if name in MAY_BE_ZERO else [0], [] if name in MAY_BE_HUGE else [Typed(U64, 2**64 - 1)]
    for value in values + zero + huge:
        refusal(path, architecture, {name: value})


@pytest.mark.parametrize(("name", "architecture"), REAL.items())
def test_a_number_that_cannot_be_is_refused_with_its_key(name: str, architecture: str, path: Path) -> None:
    values = [-1.0, NAN, INFINITY, -INFINITY, Typed(F64, 1e-310), Typed(F64, 1e300), "1.0", True, [1.0]]
    for value in values + ([0, 0.0] if name in NEVER_ZERO else []):
        assert f"`{architecture}.{name}`" in refusal(path, architecture, {name: value})


# Any values ----------------------------------------------------------------------------------------------------------

_WHOLE_NUMBERS = [0, 1, 2, 3, 4, 6, 8, 20, 24, 46, 62, 65_536, 65_537, 2**31, 2**32 - 1]
_REAL_NUMBERS = [0.0, -0.0, 1.0, 1.0000001, 0.5, -1.0, 4.0, 1e-30, 1e-40, 1e30, 3e38, NAN, INFINITY, -INFINITY]
_scalars = st.one_of(
    st.sampled_from(_WHOLE_NUMBERS).map(lambda value: Typed(U32, value)),
    st.integers(-(2**63), 2**63 - 1).map(lambda value: Typed(I64, value)),
    st.integers(0, 2**64 - 1).map(lambda value: Typed(U64, value)),
    st.sampled_from(_REAL_NUMBERS).map(lambda value: Typed(F32, value)),
    st.floats().map(lambda value: Typed(F64, value)),
    st.booleans().map(lambda value: Typed(BOOL, value)),
    st.sampled_from(["none", "linear", "yarn", "longrope", "", "x"]).map(lambda value: Typed(STRING, value)),
)
_arrays = st.sampled_from([U32, I32, F32, BOOL]).flatmap(
    lambda kind: st.lists(st.integers(0, 1 if kind == BOOL else 8), max_size=3).map(lambda some: array_of(kind, some))
)
_values = st.one_of(st.none(), _scalars, _arrays, st.just(array_of(ARRAY, [array_of(STRING, ["x"])])))
_KINDS = ["attention.causal", "nextn_predict_layers", "expert_group_count"]
_names = st.sampled_from([*WHOLE, *REAL, "rope.scaling.type", "rope.scaling.finetuned", "vocab_size", *_KINDS])
_shapes = st.none() | st.lists(st.sampled_from([0, 1, 2, 3, 8, 16, 24, 32]), max_size=3).map(tuple)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=400)
@given(
    architecture=st.sampled_from(sorted(ARCHITECTURES)),
    keys=st.dictionaries(_names, _values, min_size=1, max_size=4),
    yarn=st.booleans(),
    changed=st.dictionaries(st.integers(0, 40), _shapes, max_size=2),
)
@example("granite", {"logit_scale": 0.0}, False, {})
@example("gemma2", {"block_count": 46, "attention.head_count": 48, "attention.head_count_kv": 48}, False, {})
@example("llama", {"rope.scaling.factor": INFINITY}, True, {})
@example("llama", {"rope.scaling.factor": Typed(F64, math.exp(-10))}, True, {})
@example("llama", {"rope.freq_base": 1.0}, True, {})
@example("llama", {"rope.scaling.original_context_length": 0}, True, {})
@example("llama", {"context_length": 0}, True, {})
@example("qwen3moe", {"expert_used_count": None}, False, {})
def test_whatever_a_file_says_it_is_read_or_refused(
    path: Path, architecture: str, keys: Changes, yarn: bool, changed: dict[int, tuple[int, ...] | None]
) -> None:
    """And the frequencies of what was read are numbers."""
    tensors = list(shapes_of(architecture))
    shapes = {tensors[place % len(tensors)]: shape for place, shape in changed.items()}
    scaling = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0} if yarn else {}
    header = tiny_model(path, architecture, scaling | keys, shapes)
    try:
        config = config_of(header)
    except InferenceError as error:
        assert str(error).startswith(f"{path} ")
        return
    for layer in config.layers:
        if layer.rope is not None:
            assert all(0 < frequency < INFINITY for frequency in layer.rope.frequencies())
            assert 0 < layer.rope.magnitude < INFINITY
