"""What a device computes of a decoder: the operations between which the decoder only passes tensors on.

They are implemented in plain PyTorch (plain.py), by kernels in C (cpu/) and by Triton's (gpu/).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inference.gguf.architectures import Activation
from inference.gguf.blocks import BlockLayout
from inference_rocm.attention import Attention
from inference_rocm.linear import Linear
from inference_rocm.rotary import Rotary

__all__ = ["Experts", "HeadNorms", "Norm", "Operations", "PassT", "Rows"]

PassT = TypeVar("PassT")
"""What a device has to know of the tokens of a pass: `Spans`, or places that the device holds itself."""
_PassT_contra = TypeVar("_PassT_contra", contravariant=True)


@dataclass(frozen=True, slots=True)
class Norm:
    """RMS norm over the last dimension, in float32."""

    weight: Tensor
    epsilon: float


@dataclass(frozen=True, slots=True)
class HeadNorms:
    """Norms of queries and keys."""

    query: Norm
    key: Norm
    each: bool
    """Whether each head is normalised by itself, and not all together."""


@dataclass(frozen=True, slots=True)
class Rows:
    """A matrix of the file: rows of blocks."""

    layout: BlockLayout
    pieces: Iterator[NDArray[np.uint8]]
    """The rows' blocks, some rows at a time, uint8 [n, row bytes], so that no more than those are ever unpacked."""
    outputs: int
    """How many rows there are."""
    inputs: int
    bias: Tensor | None
    """float32 [outputs]."""


class Experts(Protocol):
    """The networks that a router chooses of."""

    @property
    def size_bytes(self) -> int:
        """Bytes that their weights take."""

    def __call__(self, rows: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """What the networks `chosen`, [tokens, used], make of `rows`, [tokens, embedding_length], by their `weights`,
        float32 [tokens, used]: float32 [tokens, embedding_length]."""


class Operations(Protocol[_PassT_contra]):
    """Activations are in the operations' own type; the residual stream is float32 [tokens, embedding_length]."""

    @property
    def kv_type(self) -> torch.dtype:
        """Of keys and values."""

    def linear(self, rows: Rows) -> Linear:
        """A linear layer."""

    def exact_linear(self, weight: Tensor, bias: Tensor | None) -> Linear:
        """A small linear layer that is computed in float32: `weight`, float32 [outputs, inputs], and `bias`."""

    def experts(self, gate: list[Rows], up: list[Rows], down: list[Rows], activation: Activation) -> Experts | None:
        """The networks of all experts, computed together, from each one's matrices; None if each is to be one of its
        own, from linear layers."""

    def normed(self, stream: Tensor, norm: Norm | None) -> Tensor:
        """The residual stream, normalised if there is a norm, as linear layers take it."""

    def add(self, stream: Tensor, rows: Tensor, norm: Norm | None, scale: float) -> None:
        """Add `rows`, normalised if there is a norm, times `scale` to the residual stream."""

    def place(
        self,
        together: Tensor,
        keys: Tensor,
        values: Tensor,
        places: _PassT_contra,
        rotary: Rotary | None,
        norms: HeadNorms | None,
    ) -> Tensor:
        """Normalise and turn the heads of `together`, [tokens, (heads + 2 kv_heads) x head_length], and put keys and
        values, [slots, kv_heads, length, head_length], into their places. Gives queries, [tokens, heads,
        head_length]."""

    def attend(
        self, attention: Attention, query: Tensor, keys: Tensor, values: Tensor, places: _PassT_contra
    ) -> Tensor:
        """[tokens, heads x head_length]."""

    def gate(self, gate_up: Tensor, activation: Activation) -> Tensor:
        """activation(gate) x up of rows that hold all gates and then all ups."""

    def likeliest(self, logits: Tensor) -> Tensor:
        """Where the greatest of each row lies: [rows]. It is that of a NaN if there is one."""
