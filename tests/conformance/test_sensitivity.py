"""What a `Config` says is felt: a decoder that got any of it wrong would not pass for llama.cpp's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from conformance.cases import CASES
from conformance.decoder import Decoder
from conformance.files import write
from conformance.test_numpy_decoder import TOLERANCE, random_tokens
from inference.gguf.architectures import Config, Layer

Mutation = Callable[[Config], Config]


def every_layer(change: Callable[[Layer], Layer]) -> Mutation:
    return lambda config: replace(config, layers=tuple(map(change, config.layers)))


def rope(**changes: object) -> Mutation:
    return every_layer(lambda layer: replace(layer, rope=layer.rope and replace(layer.rope, **changes)))


def wider(layer: Layer) -> Layer:
    return replace(layer, window=layer.window and layer.window + 1)


def without(*roles: str) -> Mutation:
    return every_layer(lambda layer: replace(layer, tensors=replace(layer.tensors, **dict.fromkeys(roles))))


MUTATIONS: dict[str, tuple[str, Mutation]] = {
    "rope order": ("llama-Q4_0", rope(order="halves")),
    "rope order, the other way": ("qwen2-biases", rope(order="interleaved")),
    "rope base": ("llama-Q4_0", rope(base=49_000.0)),
    "linear scale": ("llama-linear", rope(scale=1.0)),
    "yarn": ("llama-yarn", rope(yarn=None)),
    "yarn magnitude": ("llama-yarn", rope(magnitude=1.0)),
    "longrope magnitude": ("llama-longrope", rope(magnitude=1.0)),
    "rope factors": ("llama-llama3", lambda config: replace(config, rope_freqs=None)),
    "partial rotary": ("phi3-partial-rotary", rope(dimensions=64)),
    "window by one": ("gemma3-one-kv-head", every_layer(wider)),
    "window of gpt-oss by one": ("gpt-oss-mxfp4", every_layer(wider)),
    "no positions": ("smollm3-eight-to-one", lambda config: replace(config, layers=config.layers[:1] * 4)),
    "attention scale": ("granite-biases", lambda config: replace(config, attention_scale=0.125)),
    "attention softcap": ("gemma2-odd-heads", lambda config: replace(config, attention_softcap=None)),
    "logit softcap": ("gemma2-odd-heads", lambda config: replace(config, logit_softcap=None)),
    "embedding scale": ("gemma2-odd-heads", lambda config: replace(config, embedding_scale=1.0)),
    "residual scale": ("granite-biases", lambda config: replace(config, residual_scale=1.0)),
    "activation": ("gemma2-odd-heads", lambda config: replace(config, activation="silu")),
    "clamped activation": ("gpt-oss-mxfp4", lambda config: replace(config, activation="silu")),
    "norm epsilon": ("llama-Q4_0", lambda config: replace(config, norm_epsilon=1e-2)),
    "expert weighting": (
        "mixtral",
        lambda config: replace(config, experts=config.experts and replace(config.experts, weighting="softmax")),
    ),
    "experts used": (
        "qwen2moe-biases",
        lambda config: replace(config, experts=config.experts and replace(config.experts, used=2)),
    ),
    "sinks": ("gpt-oss-mxfp4", without("sinks")),
    "head norms": ("qwen3-wide-heads", without("query_norm", "key_norm")),
    "post norms": ("gemma3-one-kv-head", without("attention_post_norm", "feed_forward_post_norm")),
    "query bias": ("qwen2-biases", without("query_bias")),
    "shared expert": ("qwen2moe-biases", without("shared_router")),
}


@pytest.mark.real_model
@pytest.mark.parametrize("what", MUTATIONS)
def test_a_decoder_that_got_it_wrong_would_fail(what: str, tmp_path: Path) -> None:
    name, mutate = MUTATIONS[what]
    write(CASES[name], tmp_path / "model.gguf")
    decoder = Decoder(tmp_path / "model.gguf", context_length=64)
    tokens = random_tokens(64, CASES[name].seed)
    right = decoder.logits(tokens)
    decoder.config = mutate(decoder.config)
    if what == "rope factors":
        decoder._rope_factors = None
    wrong = decoder.logits(tokens)
    assert np.abs(right - wrong).max() / np.ptp(right) > 3 * TOLERANCE
