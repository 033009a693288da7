"""What every architecture means: the forward pass of a `Config`, slow and obvious, in numpy.

Device decoders are tested against it, and it against llama.cpp. It keeps no KV memory: `logits` computes a whole
sequence at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from inference.gguf.architectures import Config, Experts, Layer, LayerTensors, Part, Rope, config_of
from inference.gguf.reader import read_header
from inference.gguf.weights import Weights

__all__ = ["Decoder"]

Array: TypeAlias = NDArray[Any]
QUERIES_AT_ONCE = 256


class Decoder:
    """The model in a GGUF file, computed in `dtype`: weights, activations and sums. Nothing is quantised on the way."""

    def __init__(self, path: Path, *, context_length: int = 512, dtype: type = np.float32) -> None:
        header = read_header(path)
        self.config: Config = config_of(header)
        self.dtype = dtype
        with Weights(header) as weights:
            names = {part.tensor for part in _parts(self.config)}
            self._tensors = {name: weights.decode(name).astype(dtype, copy=False) for name in names}
        self._rope_factors = self.config.rope_factors(context_length)

    def logits(self, tokens: Sequence[int], positions: Sequence[int] | None = None) -> Array:
        """For each position, or each of `positions`, the logits of the next token: (positions, vocabulary_size)."""
        config = self.config
        hidden = self._weight(config.embedding)[np.asarray(tokens)] * self.dtype(config.embedding_scale)
        for layer in config.layers:
            hidden = self._layer(layer, hidden)
        hidden = hidden if positions is None else hidden[list(positions)]
        logits = self._linear(self._norm(hidden, config.output_norm), config.output, config.output_bias)
        return _softcap(logits * self.dtype(config.logit_scale), config.logit_softcap)

    # One layer --------------------------------------------------------------------------------------------------------

    def _layer(self, layer: Layer, hidden: Array) -> Array:
        tensors, residual_scale = layer.tensors, self.dtype(self.config.residual_scale)
        attended = self._attention(layer, self._norm(hidden, tensors.attention_norm))
        hidden = hidden + self._norm(attended, tensors.attention_post_norm) * residual_scale
        inputs = self._norm(hidden, tensors.feed_forward_norm)
        experts = self.config.experts
        outputs = self._dense(tensors, inputs) if experts is None else self._experts(tensors, inputs, experts)
        return hidden + self._norm(outputs, tensors.feed_forward_post_norm) * residual_scale

    def _norm(self, rows: Array, weight: Part | None) -> Array:
        """RMS norm over the last dimension; where there is no weight there is no norm."""
        if weight is None:
            return rows
        mean_square = np.mean(np.square(rows), axis=-1, keepdims=True)
        return rows / np.sqrt(mean_square + self.dtype(self.config.norm_epsilon)) * self._weight(weight)

    # Attention --------------------------------------------------------------------------------------------------------

    def _attention(self, layer: Layer, inputs: Array) -> Array:
        config, tensors = self.config, layer.tensors
        positions = np.arange(len(inputs))
        query = self._heads(inputs, tensors.query, tensors.query_bias, tensors.query_norm, config.heads)
        key = self._heads(inputs, tensors.key, tensors.key_bias, tensors.key_norm, config.kv_heads)
        value = self._heads(inputs, tensors.value, tensors.value_bias, None, config.kv_heads)
        if layer.rope is not None:
            query, key = (self._turned(heads, layer.rope, positions) for heads in (query, key))
        sinks = None if tensors.sinks is None else self._weight(tensors.sinks)
        out = np.empty_like(query)
        for head in range(config.heads):
            kv_head = head * config.kv_heads // config.heads
            sink = None if sinks is None else sinks[head]
            for start in range(0, len(inputs), QUERIES_AT_ONCE):
                asking = slice(start, start + QUERIES_AT_ONCE)
                seen = slice(max(0, start + 1 - (layer.window or len(inputs))), asking.stop)
                distance = positions[asking, None] - positions[seen]
                shares = self._shares(query[head, asking], key[kv_head, seen], distance, layer.window, sink)
                out[head, asking] = shares @ value[kv_head, seen]
        rows = out.transpose(1, 0, 2).reshape(len(inputs), -1)
        return self._linear(rows, tensors.attention_output, tensors.attention_output_bias)

    def _heads(self, inputs: Array, weight: Part, bias: Part | None, norm: Part | None, heads: int) -> Array:
        """(heads, positions, head_length)"""
        rows = self._linear(inputs, weight, bias)
        of_each_head = norm is not None and len(self._weight(norm)) == self.config.head_length
        if not of_each_head:
            rows = self._norm(rows, norm)
        rows = rows.reshape(len(inputs), heads, self.config.head_length)
        return (self._norm(rows, norm) if of_each_head else rows).transpose(1, 0, 2)

    def _turned(self, heads: Array, rope: Rope, positions: Array) -> Array:
        factors = None if self._rope_factors is None else self._weight(self._rope_factors).tolist()
        angles = positions[:, None] * np.array(rope.frequencies(factors))
        cos, sin = (np.asarray(part(angles) * rope.magnitude, self.dtype) for part in (np.cos, np.sin))
        half, turning = rope.dimensions // 2, heads[..., : rope.dimensions]
        if rope.order == "interleaved":
            first, second = np.s_[..., 0 : rope.dimensions : 2], np.s_[..., 1 : rope.dimensions : 2]
        else:
            first, second = np.s_[..., :half], np.s_[..., half : rope.dimensions]
        out = heads.copy()
        out[first] = turning[first] * cos - turning[second] * sin
        out[second] = turning[first] * sin + turning[second] * cos
        return out

    def _shares(self, query: Array, key: Array, distance: Array, window: int | None, sink: float | None) -> Array:
        """How much of each key's value each query takes: (queries, keys). `distance` is how far back each key lies."""
        scores = _softcap(query @ key.T * self.dtype(self.config.attention_scale), self.config.attention_softcap)
        scores[distance < 0] = -np.inf
        if window is not None:
            scores[distance >= window] = -np.inf
        if sink is not None:
            scores = np.column_stack([scores, np.full(len(scores), sink, self.dtype)])
        return _softmax(scores)[:, : len(key)]

    # Feed-forward -----------------------------------------------------------------------------------------------------

    def _dense(self, tensors: LayerTensors, inputs: Array) -> Array:
        assert tensors.gate and tensors.up and tensors.down
        gate = self._linear(inputs, tensors.gate, tensors.gate_bias)
        up = self._linear(inputs, tensors.up, tensors.up_bias)
        return self._linear(self._activated(gate, up), tensors.down, tensors.down_bias)

    def _experts(self, tensors: LayerTensors, inputs: Array, experts: Experts) -> Array:
        assert tensors.router and tensors.expert_gate and tensors.expert_up and tensors.expert_down
        logits = self._linear(inputs, tensors.router, tensors.router_bias)
        chosen = np.argsort(-logits, axis=-1, kind="stable")[:, : experts.used]
        weights = _expert_weights(logits, chosen, experts)
        out = np.zeros_like(inputs)
        for expert in range(experts.count):
            rows, place = np.nonzero(chosen == expert)
            gate = self._linear(inputs[rows], tensors.expert_gate, tensors.expert_gate_bias, expert)
            up = self._linear(inputs[rows], tensors.expert_up, tensors.expert_up_bias, expert)
            down = self._linear(self._activated(gate, up), tensors.expert_down, tensors.expert_down_bias, expert)
            out[rows] += down * weights[rows, place][:, None]
        return out + self._shared_expert(tensors, inputs)

    def _shared_expert(self, tensors: LayerTensors, inputs: Array) -> Array | float:
        if tensors.shared_router is None:
            return 0.0
        assert tensors.shared_gate and tensors.shared_up and tensors.shared_down
        gate, up = self._linear(inputs, tensors.shared_gate), self._linear(inputs, tensors.shared_up)
        share = _sigmoid(inputs @ self._weight(tensors.shared_router).reshape(-1, 1))
        return self._linear(self._activated(gate, up), tensors.shared_down) * share

    def _activated(self, gate: Array, up: Array) -> Array:
        if self.config.activation == "silu":
            return gate * _sigmoid(gate) * up
        if self.config.activation == "gelu":
            inner = np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)
            return np.asarray(0.5 * gate * (1 + np.tanh(inner)) * up, self.dtype)
        gate, up = np.minimum(gate, 7), np.clip(up, -7, 7)
        return gate * _sigmoid(self.dtype(1.702) * gate) * (up + 1)

    # Weights ----------------------------------------------------------------------------------------------------------

    def _linear(self, inputs: Array, weight: Part, bias: Part | None = None, expert: int | None = None) -> Array:
        matrix = self._weight(weight, expert)
        outputs = inputs @ matrix.T
        return outputs if bias is None else outputs + self._weight(bias, expert)

    def _weight(self, part: Part, expert: int | None = None) -> Array:
        tensor = self._tensors[part.tensor]
        tensor = tensor if expert is None else tensor[expert]
        return tensor if part.rows is None else tensor[part.rows]


def _parts(config: Config) -> list[Part]:
    """Every weight of the model."""
    holders = (config, *(layer.tensors for layer in config.layers))
    values = (getattr(holder, name) for holder in holders for name in holder.__slots__)
    return [value for value in values if isinstance(value, Part)]


def _expert_weights(logits: Array, chosen: Array, experts: Experts) -> Array:
    if experts.weighting == "softmax_of_chosen":
        return _softmax(np.take_along_axis(logits, chosen, axis=-1))
    weights = np.take_along_axis(_softmax(logits), chosen, axis=-1)
    return weights if experts.weighting == "softmax" else weights / weights.sum(axis=-1, keepdims=True)


def _softmax(rows: Array) -> Array:
    raised = np.exp(rows - rows.max(axis=-1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True))


def _sigmoid(values: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-values)))


def _softcap(values: Array, cap: float | None) -> Array:
    return values if cap is None else np.asarray(np.tanh(values / values.dtype.type(cap)) * values.dtype.type(cap))
