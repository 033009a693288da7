"""What each architecture's entry reads from a sound file: sizes, weights, windows, experts, scales."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import tiny_models
from tiny_models import (
    CONTEXT,
    EMBEDDING,
    EXPERT_KEYS,
    EXPERT_NETWORK,
    EXPERTS,
    FEED_FORWARD,
    HEAD,
    HEADS,
    KEY,
    KV_HEADS,
    LAYERS,
    QUERY,
    VOCABULARY,
)

from inference.gguf.architectures import ARCHITECTURES, Config, Experts, LayerTensors, Part, config_of

Read: TypeAlias = Callable[..., Config]
every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)

ROLES = {
    "attn_norm.weight": "attention_norm",
    "attn_q.weight": "query",
    "attn_k.weight": "key",
    "attn_v.weight": "value",
    "attn_q.bias": "query_bias",
    "attn_k.bias": "key_bias",
    "attn_v.bias": "value_bias",
    "attn_q_norm.weight": "query_norm",
    "attn_k_norm.weight": "key_norm",
    "attn_sinks.weight": "sinks",
    "attn_output.weight": "attention_output",
    "attn_output.bias": "attention_output_bias",
    "post_attention_norm.weight": "attention_post_norm",
    "ffn_norm.weight": "feed_forward_norm",
    "ffn_gate.weight": "gate",
    "ffn_up.weight": "up",
    "ffn_down.weight": "down",
    "ffn_gate.bias": "gate_bias",
    "ffn_up.bias": "up_bias",
    "ffn_down.bias": "down_bias",
    "post_ffw_norm.weight": "feed_forward_post_norm",
    "ffn_gate_inp.weight": "router",
    "ffn_gate_inp.bias": "router_bias",
    "ffn_gate_exps.weight": "expert_gate",
    "ffn_up_exps.weight": "expert_up",
    "ffn_down_exps.weight": "expert_down",
    "ffn_gate_exps.bias": "expert_gate_bias",
    "ffn_up_exps.bias": "expert_up_bias",
    "ffn_down_exps.bias": "expert_down_bias",
    "ffn_gate_inp_shexp.weight": "shared_router",
    "ffn_gate_shexp.weight": "shared_gate",
    "ffn_up_shexp.weight": "shared_up",
    "ffn_down_shexp.weight": "shared_down",
}
"""What a tensor is for. The exception is gpt-oss, whose `post_attention_norm` comes before the experts."""


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """The config of a tiny model, with some keys and tensors changed."""

    def config(
        architecture: str,
        keys: Mapping[str, Any] | None = None,
        shapes: Mapping[str, tuple[int, ...] | None] | None = None,
    ) -> Config:
        return config_of(tiny_models.tiny_model(tmp_path / "model.gguf", architecture, keys, shapes))

    return config


def parts_of(tensors: LayerTensors) -> dict[str, Part]:
    values = {field.name: getattr(tensors, field.name) for field in fields(tensors)}
    return {role: part for role, part in values.items() if part is not None}


def in_every_layer(shapes: Mapping[str, tuple[int, ...] | None]) -> dict[str, tuple[int, ...] | None]:
    return {f"blk.{layer}.{name}": shape for layer in range(2) for name, shape in shapes.items()}


def windows(config: Config) -> list[int | None]:
    return [layer.window for layer in config.layers]


def test_reading_a_config_imports_nothing_but_the_standard_library() -> None:
    program = """
import sys
before = set(sys.modules)
from inference.gguf.architectures import config_of
names = {name.partition(".")[0] for name in set(sys.modules) - before}
print(sorted(names - sys.stdlib_module_names))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "['inference']\n"


# Sizes and weights ---------------------------------------------------------------------------------------------------


def test_there_is_a_tiny_model_of_every_architecture() -> None:
    assert set(LAYERS) == set(ARCHITECTURES)


@every_architecture
def test_the_sizes_are_the_files(architecture: str, read: Read) -> None:
    config = read(architecture)
    assert (config.architecture, config.vocabulary_size, config.context_length) == (architecture, VOCABULARY, CONTEXT)
    assert (config.embedding_length, config.feed_forward_length) == (EMBEDDING, FEED_FORWARD)
    assert (config.heads, config.kv_heads, config.head_length) == (HEADS, KV_HEADS, HEAD)
    assert (config.norm_epsilon, len(config.layers)) == (0.25, 2)


@every_architecture
def test_every_tensor_is_used_for_what_it_is(architecture: str, read: Read) -> None:
    config = read(architecture)
    roles = ROLES | ({"post_attention_norm.weight": "feed_forward_norm"} if architecture == "gpt-oss" else {})
    for index, layer in enumerate(config.layers):
        whole = {role: part.tensor for role, part in parts_of(layer.tensors).items() if part.rows is None}
        fused = {"attn_qkv.weight", "ffn_up.weight"} if architecture == "phi3" else set()
        assert whole == {roles[name]: f"blk.{index}.{name}" for name in LAYERS[architecture] if name not in fused}
    assert (config.embedding, config.output_norm) == (Part("token_embd.weight"), Part("output_norm.weight"))


@every_architecture
def test_the_output_is_the_embeddings_or_has_weights_of_its_own(architecture: str, read: Read) -> None:
    if architecture not in tiny_models.OWN_OUTPUT:
        config = read(architecture)
        assert config.output is config.embedding
    if architecture != "gemma2":
        config = read(architecture, shapes={"output.weight": (EMBEDDING, VOCABULARY)})
        assert config.output == Part("output.weight")


@every_architecture
def test_queries_keys_and_values_may_lie_in_one_tensor(architecture: str, read: Read) -> None:
    apart = [f"attn_{one}.{kind}" for one in "qkv" for kind in ("weight", "bias")]
    shapes: dict[str, tuple[int, ...] | None] = dict.fromkeys(apart)
    shapes |= {"attn_qkv.weight": (EMBEDDING, QUERY + 2 * KEY), "attn_qkv.bias": (QUERY + 2 * KEY,)}
    for layer in read(architecture, shapes=in_every_layer(shapes)).layers:
        parts = parts_of(layer.tensors)
        rows = {"query": slice(0, 32), "key": slice(32, 48), "value": slice(48, 64)}
        for role, wanted in rows.items():
            assert parts[role].rows == parts[f"{role}_bias"].rows == wanted
            assert parts[role].tensor.endswith("attn_qkv.weight")
            assert parts[f"{role}_bias"].tensor.endswith("attn_qkv.bias")


def test_phi3_keeps_gate_and_up_in_one_tensor(read: Read) -> None:
    for index, layer in enumerate(read("phi3").layers):
        name = f"blk.{index}.ffn_up.weight"
        assert (layer.tensors.gate, layer.tensors.up) == (Part(name, slice(0, 20)), Part(name, slice(20, 40)))


@pytest.mark.parametrize("architecture", ["llama", "granite"])
def test_biases_are_used_where_the_file_has_them(architecture: str, read: Read) -> None:
    biases = dict.fromkeys(("attn_output.bias", "ffn_down.bias"), (EMBEDDING,))
    biases |= dict.fromkeys(("ffn_gate.bias", "ffn_up.bias"), (FEED_FORWARD,))
    parts = parts_of(read(architecture, shapes=in_every_layer(biases)).layers[1].tensors)
    assert {parts[ROLES[name]].tensor for name in biases} == {f"blk.1.{name}" for name in biases}


def test_qwen2_may_have_a_bias_on_its_output(read: Read) -> None:
    assert read("qwen2").output_bias is None
    assert read("qwen2", shapes={"output.bias": (VOCABULARY,)}).output_bias == Part("output.bias")


def test_there_may_be_more_embeddings_than_tokens(read: Read) -> None:
    assert read("llama", shapes={"token_embd.weight": (EMBEDDING, VOCABULARY + 6)}).vocabulary_size == VOCABULARY + 6


def test_head_lengths_and_kv_heads_that_the_file_leaves_out_follow_from_the_others(read: Read) -> None:
    keys = {"attention.key_length": None, "attention.value_length": None, "attention.head_count_kv": None}
    square = {f"attn_{name}.weight": (EMBEDDING, EMBEDDING) for name in ("q", "k", "v", "output")}
    config = read("llama", keys, in_every_layer(square))
    assert (config.head_length, config.kv_heads) == (6, HEADS)


def test_figures_may_be_given_for_each_layer_if_they_are_the_same(read: Read) -> None:
    names = ("attention.head_count", "attention.head_count_kv", "feed_forward_length")
    assert read("llama", {name: [tiny_models.KEYS[name]] * 2 for name in names}) == read("llama")


def test_keys_that_say_what_every_model_does_change_nothing(read: Read) -> None:
    keys = {"attention.causal": True, "nextn_predict_layers": 0, "expert_group_count": 1}
    assert read("qwen3moe", keys) == read("qwen3moe")


# Experts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "weighting"),
    [("qwen2moe", "softmax"), ("qwen3moe", "normalized_softmax"), ("gpt-oss", "softmax_of_chosen")],
)
def test_experts_are_weighed_as_the_architecture_does_it(architecture: str, weighting: Any, read: Read) -> None:
    assert read(architecture).experts == Experts(EXPERTS, 2, weighting)


def test_a_llama_with_experts_is_mixtral(read: Read) -> None:
    dense: dict[str, tuple[int, ...] | None] = dict.fromkeys(("ffn_gate.weight", "ffn_up.weight", "ffn_down.weight"))
    config = read("llama", EXPERT_KEYS, in_every_layer(dense | EXPERT_NETWORK))
    assert config.experts == Experts(EXPERTS, 2, "normalized_softmax")
    tensors = config.layers[0].tensors
    assert (tensors.gate, tensors.expert_gate) == (None, Part("blk.0.ffn_gate_exps.weight"))
    assert read("llama").experts is None


def test_the_length_of_an_expert_is_a_share_of_the_networks_where_the_file_names_none(read: Read) -> None:
    keys = {"expert_feed_forward_length": None, "feed_forward_length": 2 * FEED_FORWARD}
    assert read("qwen3moe", keys).feed_forward_length == FEED_FORWARD


def test_a_single_expert_needs_no_third_dimension(read: Read) -> None:
    one = {name: shape[:-1] if "exps" in name else shape for name, shape in EXPERT_NETWORK.items()}
    one["ffn_gate_inp.weight"] = (EMBEDDING,)
    config = read("qwen3moe", {"expert_count": 1, "expert_used_count": 1}, in_every_layer(one))
    assert config.experts == Experts(1, 1, "normalized_softmax")


# Windows -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "period", "length"),
    [("gemma2", 2, 4096), ("gemma3", 6, None), ("olmo2", 4, None), ("gpt-oss", 2, None)],
)
def test_all_but_every_nth_layer_see_a_window(architecture: str, period: int, length: int | None, read: Read) -> None:
    layers = {"block_count": 7}
    assert windows(read(architecture, layers)) == [None if layer % period == period - 1 else 6 for layer in range(7)]
    without = {"gemma2": [None], "gpt-oss": []}.get(architecture, [None, 0])  # gpt-oss must name its window
    for window in without:
        found = windows(read(architecture, layers | {"attention.sliding_window": window}))
        assert found == [None if layer % period == period - 1 else length for layer in range(7)]


@pytest.mark.parametrize("architecture", sorted(tiny_models.WITH_WINDOWS))
def test_the_files_own_pattern_comes_first(architecture: str, read: Read) -> None:
    def under(pattern: object) -> list[int | None]:
        return windows(read(architecture, {"block_count": 4, "attention.sliding_window_pattern": pattern}))

    assert under(3) == [6, 6, None, 6]
    assert under(1) == [None] * 4
    assert under(0) == [6] * 4
    assert under([True, False, False, True]) == under([1, 0, 0, 1]) == [6, None, None, 6]


@pytest.mark.parametrize("architecture", sorted(set(ARCHITECTURES) - tiny_models.WITH_WINDOWS))
def test_other_architectures_have_no_windows_whatever_the_file_says(architecture: str, read: Read) -> None:
    assert windows(read(architecture, tiny_models.WINDOW_KEYS)) == [None, None]


# Scales --------------------------------------------------------------------------------------------------------------


@every_architecture
def test_nothing_is_scaled_but_where_the_architecture_says_so(architecture: str, read: Read) -> None:
    config = read(architecture)
    scales = (config.embedding_scale, config.residual_scale, config.logit_scale, config.attention_scale)
    plain = (1.0, 1.0, 1.0, HEAD**-0.5)
    gemma = (EMBEDDING**0.5, *plain[1:])
    assert scales == {"granite": (12.0, 0.5, 0.125, 0.125), "gemma2": gemma, "gemma3": gemma}.get(architecture, plain)
    assert (config.attention_softcap, config.logit_softcap) == ((50, 30) if architecture == "gemma2" else (None, None))
    assert config.activation == {"gemma2": "gelu", "gemma3": "gelu", "gpt-oss": "clamped_swiglu"}.get(
        architecture, "silu"
    )


def test_granites_scales_are_optional_but_that_of_the_logits(read: Read) -> None:
    config = read("granite", {"residual_scale": None, "embedding_scale": 0.0, "attention.scale": None})
    assert (config.embedding_scale, config.residual_scale, config.attention_scale) == (1.0, 1.0, HEAD**-0.5)


def test_soft_caps_are_the_files(read: Read) -> None:
    caps = {"attn_logit_softcapping": 3.0, "final_logit_softcapping": 2.0}
    assert (read("gemma2", caps).attention_softcap, read("gemma2", caps).logit_softcap) == (3.0, 2.0)
    assert (read("gemma3", caps).attention_softcap, read("gemma3", caps).logit_softcap) == (None, 2.0)
    assert read("llama", caps).logit_softcap is None


@pytest.mark.parametrize(("architecture", "layers"), [("gemma2", 46), ("gemma3", 62)])
def test_the_largest_gemmas_scale_scores_by_another_length(architecture: str, layers: int, read: Read) -> None:
    assert read(architecture, {"block_count": layers}).attention_scale == (EMBEDDING // HEADS) ** -0.5
    assert read(architecture, {"block_count": layers - 1}).attention_scale == HEAD**-0.5
