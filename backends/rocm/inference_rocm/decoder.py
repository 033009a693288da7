"""The decoder: every architecture of `inference.gguf`, in plain PyTorch.

The residual stream is float32; what linear layers take and give is the compute type.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - PyTorch's own abbreviation

from inference.gguf.architectures import Config
from inference_rocm.attention import Attention
from inference_rocm.cache import KVCache
from inference_rocm.feed_forward import Dense, Mixture
from inference_rocm.kernels import Kernels
from inference_rocm.linear import Linear
from inference_rocm.rotary import Rotary
from inference_rocm.spans import Spans

__all__ = ["Block", "Decoder", "Norm", "Projections"]


@dataclass(frozen=True, slots=True)
class Norm:
    """RMS norm over the last dimension, in float32."""

    weight: Tensor
    epsilon: float
    kernels: Kernels | None = None

    def __call__(self, rows: Tensor) -> Tensor:
        return F.rms_norm(rows, self.weight.shape, self.weight, self.epsilon)

    def narrowed(self, rows: Tensor, dtype: torch.dtype) -> Tensor:
        """The norm of float32 `rows`, in the compute type."""
        if self.kernels is not None:
            return self.kernels.rms_norm(rows.contiguous(), self.weight, self.epsilon)
        return self(rows).to(dtype)


@dataclass(frozen=True, slots=True)
class Projections:
    """Queries, keys and values of one layer."""

    linear: Linear
    bias: Tensor | None

    def __call__(self, rows: Tensor) -> Tensor:
        """[tokens, (heads + 2 kv_heads) x head_length]"""
        out = self.linear(rows)
        return out if self.bias is None else out + self.bias


@dataclass(frozen=True, slots=True)
class Block:
    """One layer."""

    attention_norm: Norm | None
    projections: Projections
    query_norm: Norm | None
    key_norm: Norm | None
    norms_heads: bool
    """Whether the two norms are of each head by itself, not of all together."""
    rotary: int | None
    """Which of the decoder's rotaries turns queries and keys."""
    attention: Attention
    output: Linear
    output_bias: Tensor | None
    attention_post_norm: Norm | None
    feed_forward_norm: Norm | None
    feed_forward: Dense | Mixture
    feed_forward_post_norm: Norm | None


class Decoder:
    """A model's weights and what is computed with them. It holds no sequence: that is the cache's."""

    def __init__(
        self,
        config: Config,
        blocks: Sequence[Block],
        output_norm: Norm,
        output: Linear,
        output_bias: Tensor | None,
        dtype: torch.dtype,
        kernels: Kernels | None = None,
    ) -> None:
        self.config = config
        self.dtype = dtype
        self._kernels = kernels
        self._blocks = tuple(blocks)
        self._output_norm = output_norm
        self._output = output
        self._output_bias = output_bias

    @property
    def size_bytes(self) -> int:
        """Bytes that the linear layers' weights take; norms and biases are thousandths of that."""
        layers = (
            linear
            for block in self._blocks
            for linear in (block.projections.linear, block.output, *block.feed_forward.linears)
        )
        return sum(linear.size_bytes for linear in (*layers, self._output))

    def hidden(self, embeddings: Tensor, spans: Spans, cache: KVCache, rotaries: Sequence[Rotary]) -> Tensor:
        """Run the tokens of `spans` through all layers and put their keys and values into `cache`.

        `embeddings`: float32 [tokens, embedding_length], as the file has them. Gives float32 of the same shape.
        """
        stream = embeddings * self.config.embedding_scale if self.config.embedding_scale != 1 else embeddings
        for index, block in enumerate(self._blocks):
            stream = self._layer(block, stream, spans, *cache.layer(index), rotaries)
        return stream

    def logits(self, hidden: Tensor) -> Tensor:
        """Of each row of `hidden`: float32 [rows, vocabulary_size]."""
        config = self.config
        rows = self._output(self._output_norm.narrowed(hidden, self.dtype)).float()
        if self._output_bias is not None:
            rows += self._output_bias
        if config.logit_scale != 1:
            rows *= config.logit_scale
        if config.logit_softcap is not None:
            rows.div_(config.logit_softcap).tanh_().mul_(config.logit_softcap)
        return rows

    def _layer(
        self, block: Block, stream: Tensor, spans: Spans, keys: Tensor, values: Tensor, rotaries: Sequence[Rotary]
    ) -> Tensor:
        together = block.projections(self._narrowed(stream, block.attention_norm))
        rotary = None if block.rotary is None else rotaries[block.rotary]
        query = self._placed(block, together, keys, values, spans, rotary)
        mixed = block.attention(query, keys, values, spans)
        attended = block.output(mixed)
        if block.output_bias is not None:
            attended = attended + block.output_bias
        stream = self._added(stream, attended, block.attention_post_norm)
        outputs = block.feed_forward(self._narrowed(stream, block.feed_forward_norm))
        return self._added(stream, outputs, block.feed_forward_post_norm)

    def _narrowed(self, stream: Tensor, norm: Norm | None) -> Tensor:
        return stream.to(self.dtype) if norm is None else norm.narrowed(stream, self.dtype)

    def _placed(
        self, block: Block, together: Tensor, keys: Tensor, values: Tensor, spans: Spans, rotary: Rotary | None
    ) -> Tensor:
        """Put the tokens' keys and values into their places. Gives their queries, [tokens, heads, head_length]."""
        if self._kernels is not None and block.norms_heads:
            norms = (block.query_norm.weight, block.key_norm.weight) if block.query_norm and block.key_norm else None
            tables = None if rotary is None else (rotary.cos, rotary.sin)
            slots, positions = spans.slots, spans.positions
            return self._kernels.place_heads(
                together.contiguous(), keys, values, slots, positions, tables, norms, self.config.norm_epsilon
            )
        query, key, value = self._heads(block, together)
        if rotary is not None:
            query, key = rotary(query, spans.positions), rotary(key, spans.positions)
        _store(key, value, keys, values, spans)
        return query.to(self.dtype)

    def _heads(self, block: Block, together: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each [tokens, heads, head_length], normalised."""
        config = self.config
        counts = (config.heads, config.kv_heads, config.kv_heads)
        query, key, value = torch.split(together, [count * config.head_length for count in counts], dim=-1)
        if not block.norms_heads:
            query, key = _normed(query, block.query_norm), _normed(key, block.key_norm)
        query, key, value = (
            part.reshape(len(together), count, config.head_length)
            for part, count in zip((query, key, value), counts, strict=True)
        )
        if block.norms_heads:
            query, key = _normed(query, block.query_norm), _normed(key, block.key_norm)
        return query, key, value

    def _added(self, stream: Tensor, rows: Tensor, norm: Norm | None) -> Tensor:
        return torch.add(stream, _normed(rows, norm), alpha=self.config.residual_scale)


def _normed(rows: Tensor, norm: Norm | None) -> Tensor:
    return rows if norm is None else norm(rows.float())


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
