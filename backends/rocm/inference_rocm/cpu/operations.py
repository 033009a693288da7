"""The decoder's operations by the kernels in C."""

from __future__ import annotations

import torch
from torch import Tensor

from inference.gguf.architectures import Activation
from inference.gguf.blocks import GroupedLayout
from inference_rocm.attention import FEW, Attention
from inference_rocm.cpu.bfloat16 import Bfloat16Linear
from inference_rocm.cpu.kernels import Kernels
from inference_rocm.cpu.packed import PackedLinear
from inference_rocm.forms import PACKED
from inference_rocm.linear import DenseLinear, Linear
from inference_rocm.operations import HeadNorms, Norm, Rows
from inference_rocm.rotary import Rotary
from inference_rocm.spans import Spans

__all__ = ["COperations"]


class COperations:
    """Implements `Operations`. Activations are float32; keys and values bfloat16."""

    kv_type = torch.bfloat16

    def __init__(self, kernels: Kernels) -> None:
        self._kernels = kernels

    def linear(self, rows: Rows) -> Linear:
        """Matrices of the formats that the kernels multiply stay quantised, others are bfloat16."""
        layout, outputs, inputs, bias = rows.layout, rows.outputs, rows.inputs, rows.bias
        if isinstance(layout, GroupedLayout):
            groups = (layout.unpack(blocks) for blocks in rows.pieces)
            return PackedLinear(self._kernels, PACKED[layout.name], layout, groups, outputs, inputs, bias)
        decoded = (torch.from_numpy(layout.decode(blocks)) for blocks in rows.pieces)
        if inputs % 2 == 0:
            return Bfloat16Linear(self._kernels, decoded, outputs, inputs, bias)
        return DenseLinear(torch.cat([piece.bfloat16() for piece in decoded]), bias)

    def exact_linear(self, weight: Tensor, bias: Tensor | None) -> DenseLinear:
        return DenseLinear(weight, bias)

    def experts(self, *_: object) -> None:
        """None: each is a network of its own."""

    def normed(self, stream: Tensor, norm: Norm | None) -> Tensor:
        return stream if norm is None else self._kernels.rms_norm(stream.contiguous(), norm.weight, norm.epsilon)

    def add(self, stream: Tensor, rows: Tensor, norm: Norm | None, scale: float) -> None:
        stream.add_(self.normed(rows, norm), alpha=scale)

    def place(
        self,
        together: Tensor,
        keys: Tensor,
        values: Tensor,
        places: Spans,
        rotary: Rotary | None,
        norms: HeadNorms | None,
    ) -> Tensor:
        epsilon, weights = 0.0, None
        if norms is not None and norms.each:
            epsilon, weights = norms.query.epsilon, (norms.query.weight, norms.key.weight)
        elif norms is not None:
            queries, of_keys = len(norms.query.weight), len(norms.key.weight)
            query, key, value = torch.split(together, [queries, of_keys, of_keys], dim=-1)
            together = torch.cat((self.normed(query, norms.query), self.normed(key, norms.key), value), dim=-1)
        tables = None if rotary is None else (rotary.cos, rotary.sin)
        return self._kernels.place_heads(
            together.contiguous(), keys, values, places.slots, places.positions, tables, weights, epsilon
        )

    def attend(self, attention: Attention, query: Tensor, keys: Tensor, values: Tensor, places: Spans) -> Tensor:
        tokens, heads, head_length = query.shape
        out = torch.empty(tokens, heads * head_length)
        row = len(places.singles)
        runs: list[tuple[slice, int | None]] = [(slice(row), places.longest_single)] if row else []
        for span in places.longer:
            runs.append((slice(row, row + len(span.tokens)), span.end if len(span.tokens) <= FEW else None))
            row += len(span.tokens)
        for rows, singles_see in runs:
            self._kernels.attend(
                query[rows],
                keys,
                values,
                places.slots[rows],
                places.positions[rows],
                out[rows],
                singles_see=singles_see,
                scale=attention.scale,
                softcap=attention.softcap,
                window=attention.window,
                sinks=attention.sinks,
            )
        return out

    def gate(self, gate_up: Tensor, activation: Activation) -> Tensor:
        return self._kernels.gate(gate_up, activation)

    def likeliest(self, logits: Tensor) -> Tensor:
        return self._kernels.argmax(logits)
