"""The architectures, one entry each. Sources: `src/models/` of llama.cpp, and its converters for what is stored."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from inference.gguf.architectures.entry import (
    ATTENTION,
    EXPERTS,
    FEED_FORWARD,
    FUSED_GATE_UP,
    FUSED_QKV,
    HEAD_NORMS,
    Architecture,
    ExpertRule,
    Tensor,
    Windows,
)

__all__ = ["ARCHITECTURES"]

_EMBEDDING = ("embedding",)
_OUTPUT_BIAS = {"attention_output_bias": Tensor("attn_output.bias", _EMBEDDING, optional=True)}
_FEED_FORWARD_BIASES = {
    "gate_bias": Tensor("ffn_gate.bias", ("feed_forward",), optional=True),
    "up_bias": Tensor("ffn_up.bias", ("feed_forward",), optional=True),
    "down_bias": Tensor("ffn_down.bias", _EMBEDDING, optional=True),
}
_POST_NORMS = {
    "attention_post_norm": Tensor("post_attention_norm.weight", _EMBEDDING),
    "feed_forward_post_norm": Tensor("post_ffw_norm.weight", _EMBEDDING),
}

LLAMA = Architecture(
    name="llama",  # and Mistral, SmolLM 1 and 2, Mixtral
    rope_order="interleaved",
    attention={**ATTENTION, **_OUTPUT_BIAS},
    feed_forward={**FEED_FORWARD, **_FEED_FORWARD_BIASES},
    experts=ExpertRule(EXPERTS, "normalized_softmax", length="feed_forward_length"),
    fused=FUSED_QKV,
    rope_freqs=True,
    longrope="where scaling says so",
)

QWEN2 = Architecture(
    name="qwen2",
    rope_order="halves",
    attention=ATTENTION,
    feed_forward=FEED_FORWARD,
    fused=FUSED_QKV,
    output_bias=True,
)

QWEN3 = Architecture(
    name="qwen3",
    rope_order="halves",
    attention={**ATTENTION, **HEAD_NORMS},
    feed_forward=FEED_FORWARD,
    fused=FUSED_QKV,
)

GEMMA2 = Architecture(
    name="gemma2",
    rope_order="halves",
    attention={**ATTENTION, "attention_post_norm": _POST_NORMS["attention_post_norm"]},
    feed_forward={**FEED_FORWARD, "feed_forward_post_norm": _POST_NORMS["feed_forward_post_norm"]},
    fused=FUSED_QKV,
    output="tied",
    partial_rotary=True,
    windows=Windows(period=2, length=4096),
    activation="gelu",
    attention_softcap=50.0,
    logit_softcap=30.0,
    sqrt_embedding_scale=True,
    wide_scale_layers=46,
)

GEMMA3 = Architecture(
    name="gemma3",
    rope_order="halves",
    attention={**ATTENTION, **HEAD_NORMS, "attention_post_norm": _POST_NORMS["attention_post_norm"]},
    feed_forward={**FEED_FORWARD, "feed_forward_post_norm": _POST_NORMS["feed_forward_post_norm"]},
    fused=FUSED_QKV,
    partial_rotary=True,
    windows=Windows(period=6, optional=True, scaled=False, own_base=10_000.0),
    activation="gelu",
    logit_softcap=0.0,
    sqrt_embedding_scale=True,
    wide_scale_layers=62,
)

PHI3 = Architecture(
    name="phi3",  # its sliding windows are switched off in llama.cpp, whose text is the reference: all layers see all
    rope_order="halves",
    attention=ATTENTION,
    feed_forward=FEED_FORWARD,
    fused=FUSED_QKV + FUSED_GATE_UP,
    longrope="always",
    partial_rotary=True,
)

OLMO2 = Architecture(
    name="olmo2",  # and OLMo 3
    rope_order="halves",
    attention={
        **{role: tensor for role, tensor in ATTENTION.items() if role != "attention_norm"},
        "query_norm": Tensor("attn_q_norm.weight", ("query",)),
        "key_norm": Tensor("attn_k_norm.weight", ("key",)),
        "attention_post_norm": _POST_NORMS["attention_post_norm"],
    },
    feed_forward={
        **{role: tensor for role, tensor in FEED_FORWARD.items() if role != "feed_forward_norm"},
        "feed_forward_post_norm": _POST_NORMS["feed_forward_post_norm"],
    },
    fused=FUSED_QKV,
    output="own",
    windows=Windows(period=4, optional=True, scaled=False, base_key=False, yarn=False),
)

GRANITE = Architecture(
    name="granite",
    rope_order="interleaved",
    attention={**ATTENTION, **_OUTPUT_BIAS},
    feed_forward={**FEED_FORWARD, **_FEED_FORWARD_BIASES},
    fused=FUSED_QKV,
    rope_freqs=True,
    longrope="where scaling says so",
    rope_switch=True,
    scale_keys=True,
)

SMOLLM3 = Architecture(
    name="smollm3",
    rope_order="interleaved",
    attention=ATTENTION,
    feed_forward=FEED_FORWARD,
    fused=FUSED_QKV,
    no_rope_every=4,
)

QWEN2MOE = Architecture(
    name="qwen2moe",
    rope_order="halves",
    attention=ATTENTION,
    feed_forward=None,
    experts=ExpertRule(
        {
            **EXPERTS,
            "shared_router": Tensor("ffn_gate_inp_shexp.weight", _EMBEDDING),
            "shared_gate": Tensor("ffn_gate_shexp.weight", ("embedding", "shared_feed_forward")),
            "shared_up": Tensor("ffn_up_shexp.weight", ("embedding", "shared_feed_forward")),
            "shared_down": Tensor("ffn_down_shexp.weight", ("shared_feed_forward", "embedding")),
        },
        "softmax",
    ),
    fused=FUSED_QKV,
    output="own",
)

QWEN3MOE = Architecture(
    name="qwen3moe",
    rope_order="halves",
    attention={**ATTENTION, **HEAD_NORMS},
    feed_forward=None,
    experts=ExpertRule(EXPERTS, "normalized_softmax"),
    fused=FUSED_QKV,
)

GPT_OSS = Architecture(
    name="gpt-oss",
    rope_order="halves",
    attention={
        **ATTENTION,
        "attention_output_bias": Tensor("attn_output.bias", _EMBEDDING),
        "sinks": Tensor("attn_sinks.weight", ("heads",)),
    },
    feed_forward=None,
    experts=ExpertRule(
        {
            **EXPERTS,
            "feed_forward_norm": Tensor("post_attention_norm.weight", _EMBEDDING),
            "router_bias": Tensor("ffn_gate_inp.bias", ("experts",)),
            "expert_gate_bias": Tensor("ffn_gate_exps.bias", ("feed_forward", "experts")),
            "expert_up_bias": Tensor("ffn_up_exps.bias", ("feed_forward", "experts")),
            "expert_down_bias": Tensor("ffn_down_exps.bias", ("embedding", "experts")),
        },
        "softmax_of_chosen",
        length_required=True,
    ),
    fused=FUSED_QKV,
    output="own",
    windows=Windows(period=2),
    activation="clamped_swiglu",
)

ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            LLAMA,
            QWEN2,
            QWEN3,
            GEMMA2,
            GEMMA3,
            PHI3,
            OLMO2,
            GRANITE,
            SMOLLM3,
            QWEN2MOE,
            QWEN3MOE,
            GPT_OSS,
        )
    }
)
"""By `general.architecture`."""
