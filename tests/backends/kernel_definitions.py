"""What kernels compute, by definition: in numpy and float64, from the very numbers that the kernels round to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from inference_rocm.cpu.kernels import Kernels
from inference_rocm.cpu.library import library
from inference_rocm.cpu.packed import PackedLinear
from inference_rocm.forms import PACKED
from numpy.typing import NDArray
from random_blocks import random_blocks
from torch import Tensor

from inference.gguf.blocks import GroupedLayout, Groups, block_layout

SPAN = 32
"""Activations that share a scale."""
Array = NDArray[np.float64]


def layout_of(name: str) -> GroupedLayout:
    layout = block_layout(name)
    assert isinstance(layout, GroupedLayout)
    return layout


def random_weights(name: str, outputs: int, inputs: int, seed: int = 0) -> Groups:
    return layout_of(name).unpack(random_blocks(name, (outputs, inputs), np.random.default_rng(seed), std=0.02))


def inputs_of(name: str) -> int:
    """A short row of the format: an odd number of blocks."""
    return {32: 160, 256: 768}[layout_of(name).elements]


def packed(
    kernels: Kernels, name: str, weights: Groups, bias: Tensor | None = None, cuts: Sequence[int] = ()
) -> PackedLinear:
    """A layer of these weights, which come in pieces that end at the rows of `cuts`."""
    outputs, inputs = weights.codes.shape
    edges = [0, *cuts, outputs]
    pieces = (rows_of(weights, slice(*edges[i : i + 2])) for i in range(len(edges) - 1))
    return PackedLinear(kernels, PACKED[name], layout_of(name), pieces, outputs, inputs, bias)


def rows_of(weights: Groups, rows: slice) -> Groups:
    offsets = None if weights.offsets is None else weights.offsets[rows]
    return Groups(weights.codes[rows], weights.scales[rows], offsets, weights.group)


def decoded(weights: Groups) -> Array:
    """The weights as the file has them."""
    return _decoded(weights, lambda values: values)


def kept(weights: Groups) -> Array:
    """The weights as the kernels have them: scales and offsets in half precision, that is in eleven bits."""
    return _decoded(weights, _in_eleven_bits)


def _decoded(weights: Groups, rounded: Any) -> Array:
    def each(values: NDArray[np.float32]) -> Array:
        return np.repeat(rounded(values.astype(np.float64)), weights.group, axis=1)

    with np.errstate(invalid="ignore"):
        values: Array = each(weights.scales) * weights.codes
        return values if weights.offsets is None else values + each(weights.offsets)


def _in_eleven_bits(values: Array) -> Array:
    fraction, exponent = np.frexp(values)
    rounded: Array = np.ldexp(np.rint(fraction * 2**11) / 2**11, exponent)
    return rounded


def random_activations(rows: int, inputs: int, seed: int = 0) -> tuple[Tensor, Array]:
    """Activations of many sizes, and the numbers to which they are rounded: eight bits, the greatest of 32 is 127. None
    lies where it could be rounded up or down."""
    rng = np.random.default_rng(seed)
    spans = rng.normal(size=(rows, inputs // SPAN, SPAN)) * np.exp(rng.normal(size=(rows, inputs // SPAN, 1)))
    spans = spans.astype(np.float32).astype(np.float64)
    scale = np.abs(spans).max(axis=-1, keepdims=True) / 127
    codes = np.rint(spans / scale)
    doubtful = np.abs(spans / scale - codes) > 0.49
    spans = np.where(doubtful, codes * scale, spans).reshape(rows, inputs)
    return torch.from_numpy(spans.astype(np.float32)), (codes * scale).reshape(rows, inputs)


def require_close(found: Tensor | Array, wanted: Array, share: float) -> None:
    """No element differs by more than that share of the largest."""
    found = np.asarray(found, np.float64)
    assert found.shape == wanted.shape
    assert np.isfinite(found).all()
    differences = np.abs(found - wanted) / np.abs(wanted).max()
    place = tuple(map(int, np.unravel_index(differences.argmax(), differences.shape)))
    assert differences.max() <= share, f"{differences.max():.1e} of the largest, at {place}"


def kernels_on(threads: int = 2) -> Kernels:
    """The kernels as the backend uses them."""
    built = library()
    assert built is not None, "there is no C compiler, or it failed"
    return Kernels(built, threads)


@dataclass(frozen=True, slots=True)
class Attending:
    """How a layer attends."""

    scale: float = 0.2
    softcap: float | None = None
    window: int | None = None
    sinks: Tensor | None = None

    def __call__(self, query: Tensor, keys: Tensor, values: Tensor, positions: Sequence[int], *, span: bool) -> Array:
        """`query`: [tokens, heads, head_length]; `keys`, `values`: of one slot, bfloat16 [kv_heads, length,
        head_length]. Gives [tokens, heads x head_length]. Queries are scaled, and in spans rounded
        to bfloat16."""
        shared = query.shape[1] // keys.shape[0]
        scaled = query * self.scale
        scaled = _exact(scaled.bfloat16() if span else scaled)
        exact_keys, exact_values = (np.repeat(_exact(part), shared, axis=0) for part in (keys, values))
        out = np.empty(scaled.shape)
        for row, position in enumerate(positions):
            first = max(0, position + 1 - self.window) if self.window else 0
            seen = slice(first, position + 1)
            scores = np.einsum("hl,hkl->hk", scaled[row], exact_keys[:, seen])
            if self.softcap is not None:
                scores = self.softcap * np.tanh(scores / self.softcap)
            if self.sinks is not None:
                scores = np.concatenate((scores, _exact(self.sinks)[:, None]), axis=1)
            raised = np.exp(scores - scores.max(axis=1, keepdims=True))
            shares = raised / raised.sum(axis=1, keepdims=True)
            out[row] = np.einsum("hk,hkl->hl", shares[:, : seen.stop - first], exact_values[:, seen])
        return out.reshape(len(out), -1)

    def by(
        self,
        kernels: Kernels,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        slots: Sequence[int],
        positions: Sequence[int],
        *,
        span: bool,
    ) -> Tensor:
        """The same by the kernels; `keys`, `values`: of all slots."""
        out = torch.empty(len(query), query.shape[1] * query.shape[2])
        kernels.attend(
            query, keys, values, torch.tensor(slots), torch.tensor(positions), out,
            singles_see=None if span else max(positions) + 1,
            scale=self.scale, softcap=self.softcap, window=self.window, sinks=self.sinks,
        )  # fmt: skip
        return out


def _exact(values: Tensor) -> Array:
    exact: Array = values.double().numpy()
    return exact


def turned(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`heads`: [tokens, heads, length]; `cos`, `sin`: [tokens, turning / 2]. Element i turns with element i + turning /
    2."""
    half = cos.shape[1]
    out = heads.clone()
    for i in range(half):
        one, other, c, s = heads[..., i], heads[..., i + half], cos[:, None, i], sin[:, None, i]
        out[..., i], out[..., i + half] = one * c - other * s, other * c + one * s
    return out
