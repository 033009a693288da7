"""From a file's blocks to the arrays that MLX multiplies, by MLX's own operations on its device."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from inference.gguf.architectures import Part
from inference.gguf.blocks import GroupedLayout
from inference.gguf.weights import Weights
from inference_mlx.forms import GROUP, Form, form_of
from inference_mlx.unpacking import Unpacked, unpack

__all__ = ["Packed", "Packer"]

WEIGHTS_AT_ONCE = 1 << 21
"""Weights that are unpacked at a time, where a tensor has more. They take 5 to 11 bytes each meanwhile."""
FLOATS_AT_ONCE = 1 << 20
"""The same where they become float32 on the way, and take up to 20."""

_DENSE_TYPES = {"F32": mx.float32, "F16": mx.float16, "BF16": mx.bfloat16}


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """A matrix, or one for each expert, on the device."""

    block_format: str
    """What it was in the file."""
    form: Form
    dtype: mx.Dtype
    """Of the activations that it will be multiplied with."""
    weight: mx.array
    """[..., rows, *]: codes in uint32 words, the first in the lowest bits; dense weights in the file's type; the
    file's blocks as uint8."""
    scales: mx.array | None
    """[..., rows, columns / 32]: `dtype`, or MXFP4's exponents as uint8. None for dense weights and for K-quants."""
    biases: mx.array | None
    """As `scales`; of affine groups only."""

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in (self.weight, self.scales, self.biases) if array is not None)


@dataclass(frozen=True, slots=True)
class Packer:
    """How a model's matrices are packed."""

    dtype: mx.Dtype
    """Of activations, and so of scales and biases: MLX would convert others at every multiplication."""
    kept: Collection[str] = ()
    """Block formats that stay as they are: see `kquant.kept_formats`."""

    def pack(self, weights: Weights, part: Part) -> Packed:
        """The rows of `part`, evaluated: of a matrix, or of each expert's.

        The file's bytes go to the device once, some rows at a time, and are rearranged there.

        Raises:
            UnsupportedModelError: the file has no such tensor, or its block format has no form.
            ModelClosedError: the file was let go.
            ValueError: the tensor has one dimension.
        """
        layout, blocks = weights.layout(part.tensor), weights.raw(part.tensor)
        if blocks.ndim < 2:
            raise ValueError(f"The tensor `{part.tensor}` is no matrix but a vector; decode it.")
        if part.rows is not None:
            blocks = blocks[..., part.rows, :]
        form = form_of(layout.name, self.kept)
        if isinstance(layout, GroupedLayout) and form.mode != "k-quant":
            arrays = self._groups(blocks, layout, form)
        else:
            arrays = [mx.array(blocks).view(_DENSE_TYPES.get(layout.name, mx.uint8))]
        mx.eval(arrays)
        weight, scales, biases = (*arrays, None, None)[:3]
        assert weight is not None
        return Packed(layout.name, form, self.dtype, weight, scales, biases)

    def _groups(self, blocks: NDArray[np.uint8], layout: GroupedLayout, form: Form) -> list[mx.array]:
        """Weight, scales, and biases if the form has them."""
        *outer, row_bytes = blocks.shape
        rows = blocks.reshape(-1, row_bytes)
        columns = row_bytes // layout.fields.itemsize * layout.elements
        at_once = max(1, (WEIGHTS_AT_ONCE if form.exact else FLOATS_AT_ONCE) // columns)
        whole: list[mx.array] = []
        for first in range(0, len(rows), at_once):
            piece = slice(first, min(first + at_once, len(rows)))
            packed = self._packed(unpack(mx.array(rows[piece]), layout), form)
            arrays = [array.reshape(piece.stop - first, -1) for array in packed]
            if len(rows) <= at_once:
                whole = arrays
            else:
                whole = whole or [mx.zeros((len(rows), array.shape[1]), array.dtype) for array in arrays]
                for array, part in zip(whole, arrays, strict=True):
                    array[piece] = part  # in place, since nobody else holds it
            mx.eval(whole)
        return [array.reshape(*outer, -1) for array in whole]

    def _packed(self, weights: Unpacked, form: Form) -> list[mx.array]:
        if form.mode == "mxfp4":
            return [_words(weights.codes, form.bits), weights.scales]
        if not form.exact:
            return _requantised(weights, self.dtype)
        scales = weights.scales.astype(self.dtype)
        # A power of two times the scale as it was rounded: zero stays zero.
        biases = scales * -weights.zero if weights.offsets is None else weights.offsets.astype(self.dtype)
        return [_words(weights.codes, form.bits), scales, biases]


def _words(codes: mx.array, bits: int) -> mx.array:
    """uint8 codes, 32 or a multiple side by side, in uint32 words: the first one in the lowest bits."""
    if bits == 4:
        pairs = codes.view(mx.uint16)
        codes = (pairs | pairs >> 4).astype(mx.uint8)
    elif bits == 5:
        eights = codes.view(mx.uint64)
        for width in (5, 10, 20):  # numbers in the lower part of `place` bits: each two neighbours become one
            place = width * 8 // 5
            low = sum(((1 << width) - 1) << first for first in range(0, 64, 2 * place))
            first, second = (mx.array(np.array(mask, np.uint64)) for mask in (low, low << place))
            eights = (eights & first) | (eights & second) >> (place - width)
        codes = mx.contiguous(eights.view(mx.uint8).reshape(-1, 8)[:, :5]).reshape(-1, 5 * GROUP // 8)
    return codes.view(mx.uint32)


def _requantised(weights: Unpacked, dtype: mx.Dtype) -> list[mx.array]:
    """The weights in 8 bits, off by at most half a step of their groups of 32: words, scales and biases."""
    values = (weights.codes.astype(mx.float32) - weights.zero).reshape(*weights.scales.shape, -1)
    values = values * weights.scales[..., None]
    if weights.offsets is not None:
        values = values + weights.offsets[..., None]
    values = values.reshape(-1, GROUP)
    biases = -_at_least(-values.min(axis=-1, keepdims=True), dtype)
    values = values - biases
    scales = _at_least(values.max(axis=-1, keepdims=True) / 255, dtype)
    codes = values / mx.maximum(scales, 1e-30) + 0.5  # rounds, since none is negative; of equal weights all are 0
    return [_words(codes.astype(mx.uint8), 8), scales, biases]


def _at_least(values: mx.array, dtype: mx.Dtype) -> mx.array:
    """float32 values rounded up to `dtype`."""
    if dtype == mx.float32:
        return values
    nearest = values.astype(dtype)
    bits = nearest.view(mx.uint16)
    above = mx.where(nearest >= 0, bits + 1, bits - 1).view(dtype)
    return mx.where(nearest.astype(mx.float32) < values, above, nearest)
