"""What a decoder has to know of one model: its sizes, what each layer does, and where each weight lies.

A `Config` is made from a file's header by `config_of`; no weight is read for it. All that an architecture means is in
here: a decoder computes what it says and asks for no architecture's name. The reference is the plain decoder in
`tests/conformance/decoder.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from inference.gguf.architectures.rope import Rope

__all__ = ["Activation", "Config", "Experts", "Layer", "LayerTensors", "Part"]

Activation: TypeAlias = Literal["silu", "gelu", "clamped_swiglu"]
"""What gates a feed-forward network: silu(gate) x up; gelu(gate) x up with the tanh form of GELU; or gpt-oss's
gate x sigmoid(1.702 gate) x (up + 1), with gate cut at 7 and up at -7 and 7."""


@dataclass(frozen=True, slots=True)
class Part:
    """Where a weight lies: a tensor of the file, or some rows of one that holds several weights."""

    tensor: str
    """The tensor's name."""
    rows: slice | None = None
    """Rows in numpy's order (rows are outputs), None for the whole tensor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTensors:
    """The weights of one layer; None for what it does not have. Shapes are numpy's: (outputs, inputs).

    A norm that is missing is not applied. Norm weights multiply as they are stored: Gemma's converter has already
    added the 1.
    """

    attention_norm: Part | None = None
    query: Part
    """(heads x head_length, embedding_length)"""
    key: Part
    """(kv_heads x head_length, embedding_length)"""
    value: Part
    query_bias: Part | None = None
    key_bias: Part | None = None
    value_bias: Part | None = None
    query_norm: Part | None = None
    """(head_length,) if each head is normalised by itself, (heads x head_length,) if all are together."""
    key_norm: Part | None = None
    sinks: Part | None = None
    """(heads,): a logit beside each head's scores, after scaling, which takes its share of the softmax."""
    attention_output: Part
    attention_output_bias: Part | None = None
    attention_post_norm: Part | None = None
    """Applied to what attention gives, before it is added to the residual stream."""

    feed_forward_norm: Part | None = None
    gate: Part | None = None
    up: Part | None = None
    down: Part | None = None
    gate_bias: Part | None = None
    up_bias: Part | None = None
    down_bias: Part | None = None
    feed_forward_post_norm: Part | None = None

    router: Part | None = None
    """(experts, embedding_length)"""
    router_bias: Part | None = None
    expert_gate: Part | None = None
    """(experts, feed_forward, embedding_length)"""
    expert_up: Part | None = None
    expert_down: Part | None = None
    """(experts, embedding_length, feed_forward)"""
    expert_gate_bias: Part | None = None
    expert_up_bias: Part | None = None
    expert_down_bias: Part | None = None
    shared_router: Part | None = None
    """(embedding_length,): the sigmoid of its product weighs the shared expert."""
    shared_gate: Part | None = None
    shared_up: Part | None = None
    shared_down: Part | None = None


@dataclass(frozen=True, slots=True)
class Experts:
    """How tokens are sent to experts."""

    count: int
    used: int
    """Experts that a token goes to: those of the highest router logits."""
    weighting: Literal["softmax", "normalized_softmax", "softmax_of_chosen"]
    """The weights of the chosen experts: their share of the softmax over all; that, divided by its sum; or the softmax
    over the chosen ones' logits. The middle and the last are equal but for rounding."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer."""

    tensors: LayerTensors
    rope: Rope | None
    """None if the layer does not know positions."""
    window: int | None
    """How many tokens a token sees, itself included; None for all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """One model, ready to be computed."""

    architecture: str
    vocabulary_size: int
    """Rows of the output, which is as many logits as a position has."""
    context_length: int
    """Tokens that the model was trained for."""
    embedding_length: int
    heads: int
    kv_heads: int
    head_length: int
    """Elements of one head's query, key and value."""
    feed_forward_length: int
    """Of the dense network, or of one expert."""
    norm_epsilon: float
    activation: Activation
    attention_scale: float
    """Scores are multiplied by it."""
    attention_softcap: float | None
    """Scaled scores s become cap x tanh(s / cap)."""
    embedding_scale: float
    """Token embeddings are multiplied by it."""
    residual_scale: float
    """What attention and feed-forward give is multiplied by it before it is added to the residual stream."""
    logit_scale: float
    """Logits are multiplied by it,"""
    logit_softcap: float | None
    """and then capped as scores are."""
    experts: Experts | None
    layers: tuple[Layer, ...]

    embedding: Part
    """(vocabulary_size, embedding_length)"""
    output_norm: Part
    output: Part
    """(vocabulary_size, embedding_length); the same part as `embedding` if they are tied."""
    output_bias: Part | None
    rope_freqs: Part | None
    rope_factors_long: Part | None
    rope_factors_short: Part | None
    original_context_length: int
    """Contexts longer than this use the long factors, if there are any: see `rope_factors`."""

    def rope_factors(self, context_length: int) -> Part | None:
        """Where the divisors of the rope's frequencies lie for sequences of up to `context_length` tokens, which an
        engine must choose once: a slot computed with one set cannot go on with the other. As in llama.cpp
        (get_rope_factors), which makes contexts a multiple of 256 tokens, the length counts rounded up to that."""
        if self.rope_freqs is not None:
            return self.rope_freqs
        is_long = -(-context_length // 256) * 256 > self.original_context_length
        return self.rope_factors_long if is_long else self.rope_factors_short
