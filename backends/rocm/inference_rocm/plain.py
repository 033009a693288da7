"""The decoder's operations in plain PyTorch: for CPUs without a compiler, and the reference for kernels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - PyTorch's own abbreviation

from inference.gguf.architectures import Activation
from inference_rocm.attention import Attention
from inference_rocm.linear import DenseLinear
from inference_rocm.operations import HeadNorms, Norm, Rows
from inference_rocm.rotary import Rotary
from inference_rocm.spans import Spans

__all__ = ["PlainOperations", "gated"]


class PlainOperations:
    """Implements `Operations`. All weights and activations are of one type."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.kv_type = dtype

    def linear(self, rows: Rows) -> DenseLinear:
        weight = torch.cat([torch.from_numpy(rows.layout.decode(blocks)).to(self.kv_type) for blocks in rows.pieces])
        return DenseLinear(weight, rows.bias)

    def exact_linear(self, weight: Tensor, bias: Tensor | None) -> DenseLinear:
        return DenseLinear(weight, bias)

    def experts(self, *_: object) -> None:
        """None: each is a network of its own."""

    def normed(self, stream: Tensor, norm: Norm | None) -> Tensor:
        return _normed(stream, norm).to(self.kv_type)

    def add(self, stream: Tensor, rows: Tensor, norm: Norm | None, scale: float) -> None:
        stream.add_(_normed(rows, norm), alpha=scale)

    def place(
        self,
        together: Tensor,
        keys: Tensor,
        values: Tensor,
        places: Spans,
        rotary: Rotary | None,
        norms: HeadNorms | None,
    ) -> Tensor:
        kv_heads, head_length = keys.shape[1], keys.shape[3]
        heads = together.shape[1] // head_length - 2 * kv_heads
        parts = torch.split(together, [count * head_length for count in (heads, kv_heads, kv_heads)], dim=-1)
        if norms is not None and not norms.each:
            parts = _normed(parts[0], norms.query), _normed(parts[1], norms.key), parts[2]
        query, key, value = (part.reshape(len(together), -1, head_length) for part in parts)
        if norms is not None and norms.each:
            query, key = _normed(query, norms.query), _normed(key, norms.key)
        if rotary is not None:
            query, key = rotary(query, places.positions), rotary(key, places.positions)
        _store(key, value, keys, values, places)
        return query.to(self.kv_type)

    def attend(self, attention: Attention, query: Tensor, keys: Tensor, values: Tensor, places: Spans) -> Tensor:
        return attention(query, keys, values, places)

    def gate(self, gate_up: Tensor, activation: Activation) -> Tensor:
        return gated(gate_up, activation)

    def likeliest(self, logits: Tensor) -> Tensor:
        return logits.argmax(dim=-1)


def gated(gate_up: Tensor, activation: Activation) -> Tensor:
    """activation(gate) x up of rows that hold all gates and then all ups."""
    gate, up = gate_up.chunk(2, dim=-1)
    if activation == "silu":
        return F.silu(gate) * up
    if activation == "gelu":
        return F.gelu(gate, approximate="tanh") * up
    gate, up = gate.clamp(max=7), up.clamp(-7, 7)
    return gate * torch.sigmoid(1.702 * gate) * (up + 1)


def _normed(rows: Tensor, norm: Norm | None) -> Tensor:
    return rows if norm is None else F.rms_norm(rows.float(), norm.weight.shape, norm.weight, norm.epsilon)


def _store(key: Tensor, value: Tensor, keys: Tensor, values: Tensor, spans: Spans) -> None:
    """Put keys and values, [tokens, kv_heads, head_length], into their slots' places."""
    singles = len(spans.singles)
    if singles == 1:
        span = spans.singles[0]
        keys[span.slot, :, span.start] = key[0]
        values[span.slot, :, span.start] = value[0]
    elif singles:
        keys[spans.single_slots, :, spans.single_positions] = key[:singles].to(keys.dtype)
        values[spans.single_slots, :, spans.single_positions] = value[:singles].to(values.dtype)
    row = singles
    for span in spans.longer:
        end = row + len(span.tokens)
        keys[span.slot, :, span.start : span.end] = key[row:end].transpose(0, 1)
        values[span.slot, :, span.start : span.end] = value[row:end].transpose(0, 1)
        row = end
