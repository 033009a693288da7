"""The decoder's operations by kernels in Triton."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from inference.gguf.architectures import Activation
from inference_rocm.attention import Attention
from inference_rocm.gpu import elements
from inference_rocm.gpu.attention import attend
from inference_rocm.gpu.device import Device
from inference_rocm.gpu.experts import TogetherExperts, stacked
from inference_rocm.gpu.linear import TritonLinear, weights_of
from inference_rocm.gpu.matrix import Matrix
from inference_rocm.gpu.places import Places
from inference_rocm.gpu.span_attention import attend_spans
from inference_rocm.gpu.workspace import MANY
from inference_rocm.operations import HeadNorms, Norm, Rows
from inference_rocm.rotary import Rotary

__all__ = ["TritonOperations"]


class TritonOperations:
    """Implements `Operations`. Nothing of it waits for the device, so that a pass can be captured."""

    def __init__(self, device: Device, half: torch.dtype) -> None:
        """`half`: the type of keys and values, and that which matrix cores multiply."""
        self.kv_type = half
        self._device = device

    def linear(self, rows: Rows) -> TritonLinear:
        weights = weights_of(rows.layout, rows.pieces, rows.outputs, rows.inputs, self._device)
        return TritonLinear(Matrix(weights, rows.bias, self._device, self.kv_type))

    def exact_linear(self, weight: Tensor, bias: Tensor | None) -> TritonLinear:
        return TritonLinear(Matrix(weight, bias, self._device, torch.float32))

    def experts(self, gate: list[Rows], up: list[Rows], down: list[Rows], activation: Activation) -> TogetherExperts:
        parts = [[gate, up]] if gate[0].layout is up[0].layout else [[gate], [up]]
        gate_up = [stacked(part, self._device, self.kv_type) for part in parts]
        return TogetherExperts(
            gate_up, stacked([down], self._device, self.kv_type), len(down), activation, self._device
        )

    def normed(self, stream: Tensor, norm: Norm | None) -> Tensor:
        if norm is None:
            return stream
        return elements.rms_norm(stream, norm.weight, norm.epsilon, self._type(stream), self._device)

    def add(self, stream: Tensor, rows: Tensor, norm: Norm | None, scale: float) -> None:
        weight, epsilon = (None, 0.0) if norm is None else (norm.weight, norm.epsilon)
        elements.add_normed(stream, rows, weight, epsilon, scale, self._device)

    def place(
        self,
        together: Tensor,
        keys: Tensor,
        values: Tensor,
        places: Places,
        rotary: Rotary | None,
        norms: HeadNorms | None,
    ) -> Tensor:
        epsilon, weights = 0.0, None
        if norms is not None and norms.each:
            epsilon, weights = norms.query.epsilon, (norms.query.weight, norms.key.weight)
        elif norms is not None:
            first = 0
            for norm in (norms.query, norms.key):
                part = together[:, first : first + len(norm.weight)]
                elements.rms_norm(part, norm.weight, norm.epsilon, part.dtype, self._device, out=part)
                first += len(norm.weight)
        tables = None if rotary is None else (rotary.cos, rotary.sin)
        return elements.place_heads(
            together,
            keys,
            values,
            places.slots,
            places.positions,
            tables,
            weights,
            epsilon,
            self._type(together),
            self._device,
        )

    def attend(self, attention: Attention, query: Tensor, keys: Tensor, values: Tensor, places: Places) -> Tensor:
        tokens, heads, head_length = query.shape
        out = torch.empty(tokens, heads * head_length, dtype=query.dtype, device=query.device)
        rule: dict[str, Any] = {
            "scale": attention.scale,
            "softcap": attention.softcap,
            "window": attention.window,
            "sinks": attention.sinks,
            "device": self._device,
        }
        if places.tiles is None:
            attend(query, keys, values, places.slots, places.positions, out, **rule)
        else:
            attend_spans(query, keys, values, places.tiles, out, **rule)
        return out

    def gate(self, gate_up: Tensor, activation: Activation) -> Tensor:
        return elements.gate(gate_up, activation, self._type(gate_up), self._device)

    def likeliest(self, logits: Tensor) -> Tensor:
        return logits.argmax(dim=-1)

    def _type(self, rows: Tensor) -> torch.dtype:
        return self.kv_type if len(rows) > MANY else torch.float32
