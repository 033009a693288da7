"""Layers of packed weights: MLX's and mlx-lm's own classes, with their arrays set and no random ones made first.

Whatever the type of the weights, what comes out has the type of the activations.
"""

from __future__ import annotations

from typing import TypeVar

import mlx.core as mx
from mlx import nn
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear

from inference_mlx.forms import GROUP
from inference_mlx.kquant import KQuants, codec_of, kquants
from inference_mlx.packing import Packed

__all__ = ["embedding_of", "linear_of", "switch_linear_of"]

_M = TypeVar("_M", bound=nn.Module)


def linear_of(packed: Packed, bias: mx.array | None = None) -> nn.Module:
    """A layer that takes [..., columns] and gives [..., rows]. `bias`: [rows]."""
    kinds: dict[str, type[nn.Module]] = {"dense": _DenseLinear, "k-quant": _KQuantLinear}
    return _filled(kinds.get(packed.form.mode, nn.QuantizedLinear), packed, bias)


def switch_linear_of(packed: Packed, bias: mx.array | None = None) -> nn.Module:
    """A layer for each expert, called as mlx-lm's `SwitchLinear` is: with activations [..., 1, columns], and indices
    [...] that say which expert. `bias`: [experts, rows]."""
    kinds: dict[str, type[nn.Module]] = {"dense": _DenseSwitchLinear, "k-quant": _KQuantSwitchLinear}
    layer = _filled(kinds.get(packed.form.mode, QuantizedSwitchLinear), packed, bias)
    layer.global_scale = None  # what mlx-lm's has for another mode
    return layer


def embedding_of(packed: Packed, dtype: mx.Dtype) -> nn.Module:
    """From ids [...] to rows [..., columns] of type `dtype`. Its `as_linear` is the layer of the same weights, for
    outputs that are tied to the embeddings."""
    kinds: dict[str, type[nn.Module]] = {"dense": _DenseEmbedding, "k-quant": _KQuantEmbedding}
    layer = _filled(kinds.get(packed.form.mode, _QuantizedEmbedding), packed, None)
    layer.dtype = dtype
    return layer


def _filled(kind: type[_M], packed: Packed, bias: mx.array | None) -> _M:
    """A layer without its constructor's random weights: they are not computed, but they move MLX's random state on."""
    layer = kind.__new__(kind)
    nn.Module.__init__(layer)
    layer.weight = packed.weight
    if packed.form.mode == "k-quant":
        layer.scales = mx.zeros((1,), mx.uint8)  # stands for the scales that lie inside the blocks
        layer.codec, layer.package = codec_of(packed.block_format), kquants()
    elif packed.scales is not None:
        layer.scales, layer.biases = packed.scales, packed.biases
        layer.group_size, layer.bits, layer.mode = GROUP, packed.form.bits, packed.form.mode
    if bias is not None:
        layer.bias = bias.astype(packed.dtype)
    return layer


class _QuantizedEmbedding(nn.QuantizedEmbedding):
    dtype: mx.Dtype

    def __call__(self, ids: mx.array) -> mx.array:
        biases = self.biases
        return mx.dequantize(
            self.weight[ids],
            self.scales[ids],
            None if biases is None else biases[ids],
            group_size=self.group_size,
            bits=self.bits,
            mode=self.mode,
            dtype=self.dtype,
        )


class _DenseLinear(nn.Linear):
    def __call__(self, x: mx.array) -> mx.array:
        return super().__call__(x).astype(x.dtype)


class _DenseSwitchLinear(SwitchLinear):
    def __call__(self, x: mx.array, indices: mx.array, sorted_indices: bool = False) -> mx.array:
        y: mx.array = super().__call__(x, indices, sorted_indices)  # type: ignore[no-untyped-call]
        return y.astype(x.dtype)


class _DenseEmbedding(nn.Embedding):
    dtype: mx.Dtype

    def __call__(self, ids: mx.array) -> mx.array:
        rows: mx.array = self["weight"][ids]
        return rows.astype(self.dtype)

    def as_linear(self, x: mx.array) -> mx.array:
        y: mx.array = x @ self["weight"].T
        return y.astype(x.dtype)


class _KQuants(nn.Module):
    """The file's blocks, which the package `mlx-kquant` multiplies."""

    codec: str
    package: KQuants

    def _multiplied(self, x: mx.array) -> mx.array:
        y = self.package.quantized_matmul(x, self["weight"], self["scales"], self.codec, transpose=True)
        return y.astype(x.dtype)


class _KQuantLinear(_KQuants):
    def __call__(self, x: mx.array) -> mx.array:
        y = self._multiplied(x)
        return y + self["bias"] if "bias" in self else y


class _KQuantSwitchLinear(_KQuants):
    def __call__(self, x: mx.array, indices: mx.array, sorted_indices: bool = False) -> mx.array:
        weight, scales = self["weight"], self["scales"]
        y = self.package.gather_qmm(
            x, weight, scales, self.codec, rhs_indices=indices, transpose=True, sorted_indices=sorted_indices
        ).astype(x.dtype)
        return y + mx.expand_dims(self["bias"][indices], -2) if "bias" in self else y


class _KQuantEmbedding(_KQuants):
    dtype: mx.Dtype

    def __call__(self, ids: mx.array) -> mx.array:
        rows = self["weight"][ids.reshape(-1)]
        values = self.package.dequantize(rows, self["scales"], self.codec, dtype=self.dtype)
        return values.reshape(*ids.shape, -1)

    def as_linear(self, x: mx.array) -> mx.array:
        return self._multiplied(x)
