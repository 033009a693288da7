"""mlx-lm's model classes: which computes what, and where a layer's weights go in each. Importing this imports nothing
heavy.

A file is matched by what its `Config` says, not by its architecture's name: a Phi 3 has the structure of mlx-lm's
`llama`, once ropes and weights are set from outside.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from inference.gguf.architectures import Config

__all__ = ["FAMILIES", "Family", "Structure", "structure_of"]

Paths = Mapping[str, str]
"""The attribute paths in mlx-lm's layer, by the fields of `LayerTensors`."""


@dataclass(frozen=True, kw_only=True)
class Structure:
    """What a layer consists of, beyond numbers."""

    norms: Literal["before", "after", "around"] = "before"
    """Where attention and feed-forward are normalised: their inputs, their outputs, or both."""
    head_norms: Literal["none", "each", "all"] = "none"
    """Whether queries and keys are normalised, each head by itself or all together."""
    activation: str = "silu"
    softcap: bool = False
    """Whether attention scores are capped."""
    sinks: bool = False
    scaled_residual: bool = False
    experts: str | None = None
    """How the chosen experts are weighted."""
    shared_expert: bool = False

    def __str__(self) -> str:
        words = [f"norms {self.norms} attention and feed-forward"]
        words += {"none": [], "each": ["normalised heads"], "all": ["normalised queries and keys"]}[self.head_norms]
        words += ["capped scores"] if self.softcap else []
        words += ["attention sinks"] if self.sinks else []
        words += ["a scaled residual stream"] if self.scaled_residual else []
        words += [f"experts weighted by {self.experts}"] if self.experts else []
        words += ["a shared expert"] if self.shared_expert else []
        return f"{', '.join(words)} and the activation {self.activation}"


@dataclass(frozen=True, kw_only=True)
class Family:
    """A module of `mlx_lm.models`."""

    module: str
    paths: Paths
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Those of its `ModelArgs` that `building` does not know by the names that most have."""
    scale: str = "self_attn.scale"
    """The path of what attention scores are multiplied by."""
    wide_mask: bool = False
    """Whether attention wants its mask with an axis for the query heads of one KV head, and never as a word."""


_ATTENTION = {
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "attention_output": "self_attn.o_proj",
}
_HEAD_NORMS = {"query_norm": "self_attn.q_norm", "key_norm": "self_attn.k_norm"}
_NORMS = {"attention_norm": "input_layernorm", "feed_forward_norm": "post_attention_layernorm"}
_NORMS_AROUND = {
    "attention_norm": "input_layernorm",
    "attention_post_norm": "post_attention_layernorm",
    "feed_forward_norm": "pre_feedforward_layernorm",
    "feed_forward_post_norm": "post_feedforward_layernorm",
}
_NORMS_AFTER = {
    "attention_post_norm": "post_attention_layernorm",
    "feed_forward_post_norm": "post_feedforward_layernorm",
}
_DENSE = {"gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"}
_EVERY_LAYER_SPARSE = {"decoder_sparse_step": 1, "mlp_only_layers": []}


def _experts(router: str, network: str) -> Paths:
    return {
        "router": router,
        "expert_gate": f"{network}.gate_proj",
        "expert_up": f"{network}.up_proj",
        "expert_down": f"{network}.down_proj",
    }


FAMILIES: Mapping[Structure, Family] = {
    Structure(): Family(module="llama", paths={**_ATTENTION, **_NORMS, **_DENSE}),
    Structure(head_norms="each"): Family(module="qwen3", paths={**_ATTENTION, **_NORMS, **_HEAD_NORMS, **_DENSE}),
    Structure(norms="around", softcap=True, activation="gelu"): Family(
        module="gemma2", paths={**_ATTENTION, **_NORMS_AROUND, **_DENSE}, wide_mask=True
    ),
    Structure(norms="around", head_norms="each", activation="gelu"): Family(
        module="gemma3_text", paths={**_ATTENTION, **_NORMS_AROUND, **_HEAD_NORMS, **_DENSE}
    ),
    Structure(norms="after", head_norms="all"): Family(
        module="olmo2", paths={**_ATTENTION, **_NORMS_AFTER, **_HEAD_NORMS, **_DENSE}
    ),
    Structure(scaled_residual=True): Family(
        module="granite",
        paths={**_ATTENTION, **_NORMS, **_DENSE},
        arguments={"logits_scaling": 1.0, "attention_multiplier": 1.0, "embedding_multiplier": 1.0},
    ),
    Structure(experts="normalized_softmax"): Family(
        module="mixtral",
        paths={**_ATTENTION, **_NORMS, **_experts("block_sparse_moe.gate", "block_sparse_moe.switch_mlp")},
    ),
    Structure(experts="softmax", shared_expert=True): Family(
        module="qwen2_moe",
        paths={
            **_ATTENTION,
            **_NORMS,
            **_experts("mlp.gate", "mlp.switch_mlp"),
            "shared_router": "mlp.shared_expert_gate",
            "shared_gate": "mlp.shared_expert.gate_proj",
            "shared_up": "mlp.shared_expert.up_proj",
            "shared_down": "mlp.shared_expert.down_proj",
        },
    ),
    Structure(head_norms="each", experts="normalized_softmax"): Family(
        module="qwen3_moe",
        paths={**_ATTENTION, **_NORMS, **_HEAD_NORMS, **_experts("mlp.gate", "mlp.switch_mlp")},
        arguments={**_EVERY_LAYER_SPARSE, "norm_topk_prob": True},
    ),
    Structure(activation="clamped_swiglu", sinks=True, experts="softmax_of_chosen"): Family(
        module="gpt_oss",
        paths={**_ATTENTION, **_NORMS, **_experts("mlp.router", "mlp.experts"), "sinks": "self_attn.sinks"},
        scale="self_attn.sm_scale",
    ),
}


def structure_of(config: Config) -> Structure:
    """What a file's layers consist of; they are all alike but for ropes and windows."""
    tensors = config.layers[0].tensors
    norms: Literal["before", "after", "around"] = "before"
    if tensors.attention_post_norm is not None:
        norms = "after" if tensors.attention_norm is None else "around"
    experts = config.experts
    return Structure(
        norms=norms,
        head_norms="none" if tensors.query_norm is None else "all" if norms == "after" else "each",
        activation=config.activation,
        softcap=config.attention_softcap is not None,
        sinks=tensors.sinks is not None,
        scaled_residual=config.residual_scale != 1.0,
        experts=None if experts is None else experts.weighting,
        shared_expert=tensors.shared_router is not None,
    )
