"""What an architecture's entry says, and the tables of tensors that entries are put together from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from inference.gguf.architectures.config import Activation
from inference.gguf.architectures.rope import PairOrder

__all__ = [
    "ATTENTION",
    "EXPERTS",
    "FEED_FORWARD",
    "FUSED_GATE_UP",
    "FUSED_QKV",
    "HEAD_NORMS",
    "Architecture",
    "ExpertRule",
    "Fused",
    "Tensor",
    "Tensors",
    "Windows",
]


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor's name and its shape, in the file's order (inputs first, the reverse of numpy's), by the names of
    `tensors.Sizes`."""

    name: str
    shape: tuple[str, ...]
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Fused:
    """A tensor that holds the rows of several weights, one after the other. It may stand in the place of them."""

    name: str
    parts: tuple[str, ...]


Tensors: TypeAlias = Mapping[str, Tensor]
"""By the fields of `LayerTensors`; names are those after "blk.N."."""


@dataclass(frozen=True, slots=True)
class Windows:
    """Which layers see a window only: all but every `period`-th. The file's own window and pattern come first."""

    period: int
    length: int | None = None
    """The window of files that name none; None: they must name one, unless it is `optional`."""
    optional: bool = False
    """Whether a file without a window, or with one of 0, is of a model whose layers all see all."""
    scaled: bool = True
    """Whether the windowed layers' frequencies are scaled as the other layers' are."""
    own_base: float | None = None
    """Base of the windowed layers' frequencies where the file names none; None: that of the other layers."""
    base_key: bool = True
    """Whether the file may name that base."""
    yarn: bool = True
    """Whether YaRN applies to them too."""


@dataclass(frozen=True, slots=True)
class ExpertRule:
    """How an architecture uses its experts."""

    tensors: Tensors
    weighting: Literal["softmax", "normalized_softmax", "softmax_of_chosen"]
    length: Literal["feed_forward_length", "expert_feed_forward_length"] = "expert_feed_forward_length"
    """The key that gives the length of one expert."""
    length_required: bool = False
    """Whether the file must have that key. Without it, the dense length is divided among the experts that are used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """One `general.architecture`, declared. What is left out, it does not have; the output and the activation are then
    those of most."""

    name: str
    rope_order: PairOrder
    attention: Tensors
    feed_forward: Tensors | None
    """None if the architecture always has experts."""
    experts: ExpertRule | None = None
    fused: tuple[Fused, ...] = ()
    output: Literal["own or tied", "own", "tied"] = "own or tied"
    """Whether the output has weights of its own, or takes the token embeddings."""
    output_bias: bool = False
    rope_freqs: bool = False
    """Whether the file may have divisors for the rope's frequencies that hold for every context (llama 3's)."""
    longrope: Literal["never", "where scaling says so", "always"] = "never"
    """Whether the file may have two sets of divisors, for long and for short contexts: only with that
    `rope.scaling.type`, or whatever it is."""
    partial_rotary: bool = False
    """Whether the rope may turn less than a whole head."""
    rope_switch: bool = False
    """Whether `rope.scaling.finetuned` = false means that no layer knows positions."""
    no_rope_every: int | None = None
    """Every n-th layer knows no positions."""
    windows: Windows | None = None
    activation: Activation = "silu"
    attention_softcap: float | None = None
    """Where the file names none; None: the architecture has none."""
    logit_softcap: float | None = None
    """Where the file names none; 0: there is one only if the file names it; None: the architecture has none."""
    sqrt_embedding_scale: bool = False
    """Whether token embeddings are multiplied by the root of their length."""
    scale_keys: bool = False
    """Whether the file has factors for embeddings, residuals, scores and logits."""
    wide_scale_layers: int | None = None
    """A model of so many layers scales its scores by (embedding_length / heads) ** -0.5, not by head_length ** -0.5."""


# Tables ------------------------------------------------------------------------------------------------------------

_EMBEDDING, _HEAD = ("embedding",), ("head",)

ATTENTION: Tensors = {
    "attention_norm": Tensor("attn_norm.weight", _EMBEDDING),
    "query": Tensor("attn_q.weight", ("embedding", "query")),
    "key": Tensor("attn_k.weight", ("embedding", "key")),
    "value": Tensor("attn_v.weight", ("embedding", "key")),
    "query_bias": Tensor("attn_q.bias", ("query",), optional=True),
    "key_bias": Tensor("attn_k.bias", ("key",), optional=True),
    "value_bias": Tensor("attn_v.bias", ("key",), optional=True),
    "attention_output": Tensor("attn_output.weight", ("query", "embedding")),
}

HEAD_NORMS: Tensors = {
    "query_norm": Tensor("attn_q_norm.weight", _HEAD),
    "key_norm": Tensor("attn_k_norm.weight", _HEAD),
}
"""Each head's query and key are normalised by themselves, before they turn."""

FEED_FORWARD: Tensors = {
    "feed_forward_norm": Tensor("ffn_norm.weight", _EMBEDDING),
    "gate": Tensor("ffn_gate.weight", ("embedding", "feed_forward")),
    "up": Tensor("ffn_up.weight", ("embedding", "feed_forward")),
    "down": Tensor("ffn_down.weight", ("feed_forward", "embedding")),
}

EXPERTS: Tensors = {
    "feed_forward_norm": Tensor("ffn_norm.weight", _EMBEDDING),
    "router": Tensor("ffn_gate_inp.weight", ("embedding", "experts")),
    "expert_gate": Tensor("ffn_gate_exps.weight", ("embedding", "feed_forward", "experts")),
    "expert_up": Tensor("ffn_up_exps.weight", ("embedding", "feed_forward", "experts")),
    "expert_down": Tensor("ffn_down_exps.weight", ("feed_forward", "embedding", "experts")),
}

FUSED_QKV = (
    Fused("attn_qkv.weight", ("query", "key", "value")),
    Fused("attn_qkv.bias", ("query_bias", "key_bias", "value_bias")),
)

FUSED_GATE_UP = (Fused("ffn_up.weight", ("gate", "up")),)
