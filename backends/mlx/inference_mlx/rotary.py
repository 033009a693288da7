"""Rotary position embedding with the frequencies that a file says, in the place of those that mlx-lm would compute."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn

from inference.gguf.architectures import Rope

__all__ = ["rotary"]


class Rotary(nn.Module):
    """Turns pairs by frequencies that no base gives: YaRN's, longrope's, llama 3's."""

    def __init__(self, rope: Rope, factors: Sequence[float] | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._dimensions = rope.dimensions
        self._interleaved = rope.order == "interleaved"
        self._magnitude = rope.magnitude
        self._periods = mx.array([1 / frequency for frequency in rope.frequencies(factors)], mx.float32)

    def __call__(self, x: mx.array, offset: int | mx.array = 0) -> mx.array:
        """`x`: [batch, heads, tokens, head]; `offset`: the first token's position, of all or of each in the batch."""
        if self._magnitude != 1.0:
            x = x.at[..., : self._dimensions].multiply(self._magnitude)
        return mx.fast.rope(
            x,
            self._dimensions,
            traditional=self._interleaved,
            base=None,
            scale=1.0,
            offset=offset,
            freqs=self._periods,
        )


class Unturned(nn.Module):
    """For layers that do not know positions."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __call__(self, x: mx.array, offset: int | mx.array = 0) -> mx.array:  # noqa: ARG002 - as the others are called
        return x


def rotary(rope: Rope | None, factors: Sequence[float] | None) -> nn.Module:
    """A layer's rope, as mlx-lm's attention calls it. `factors` divide the frequencies: see `Config.rope_factors`."""
    if rope is None:
        return Unturned()
    if rope.yarn is None and factors is None and rope.magnitude == 1.0:
        return nn.RoPE(rope.dimensions, traditional=rope.order == "interleaved", base=rope.base, scale=rope.scale)
    return Rotary(rope, factors)
