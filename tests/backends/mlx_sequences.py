"""An MLX decoder with its KV memory, fed by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import mlx.core as mx
import numpy as np
from inference_mlx.building import build_decoder
from inference_mlx.packing import Packer

from inference.gguf.architectures import config_of
from inference.gguf.reader import read_header
from inference.gguf.weights import Weights

__all__ = ["MLXSequences", "float32_sums"]


class MLXSequences:
    """One file on MLX's CPU device."""

    def __init__(self, path: Path, dtype: mx.Dtype = mx.float32, *, length: int = 512) -> None:
        header = read_header(path)
        with Weights(header) as weights:
            self.decoder = build_decoder(weights, config_of(header), Packer(dtype), context_length=length)

    def in_pieces(self, tokens: Sequence[int], lengths: Sequence[int]) -> np.ndarray:
        """The logits after every token of one sequence, which is fed in pieces of these lengths."""
        return np.concatenate([self._all(piece) for piece in self._fed(tokens, lengths)])

    def after(self, tokens: Sequence[int], lengths: Sequence[int]) -> np.ndarray:
        """The logits after the last token of each piece: the others are not computed."""
        return np.concatenate([self._all(piece[:, -1:]) for piece in self._fed(tokens, lengths)])

    def _fed(self, tokens: Sequence[int], lengths: Sequence[int]) -> Iterator[mx.array]:
        assert sum(lengths) == len(tokens)
        caches, start = self.decoder.caches(), 0
        for length in lengths:
            yield self.decoder.hidden(mx.array([tokens[start : start + length]]), caches)
            start += length

    def _all(self, hidden: mx.array) -> np.ndarray:
        return np.array(self.decoder.logits(hidden))[0]


@contextmanager
def float32_sums() -> Iterator[None]:
    """Sum in float32 and round what comes out, as Metal's kernels do. MLX's CPU device sums in its operands' type,
    with 16 bits slowly and coarsely."""
    fast = ("scaled_dot_product_attention", "rms_norm", "rope")
    patches = [
        patch.object(mx, name, _wide(getattr(mx, name))) for name in ("quantized_matmul", "gather_qmm", "gather_mm")
    ]
    patches += [patch.object(mx.fast, name, _wide(getattr(mx.fast, name))) for name in fast]
    for one in patches:
        one.start()
    try:
        yield
    finally:
        for one in patches:
            one.stop()


def _wide(function: Callable[..., mx.array]) -> Callable[..., mx.array]:
    def computed(x: mx.array, *others: Any, **named: Any) -> mx.array:
        widened = {name: _float32(value) for name, value in named.items()}
        return function(_float32(x), *map(_float32, others), **widened).astype(x.dtype)

    return computed


def _float32(value: Any) -> Any:
    is_number = isinstance(value, mx.array) and mx.issubdtype(value.dtype, mx.floating)
    return value.astype(mx.float32) if is_number else value
