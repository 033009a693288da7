"""The decoder: every architecture of `inference.gguf`, in plain PyTorch.

The residual stream is float32; what linear layers take and give is the decoder's type.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - PyTorch's own abbreviation

from inference.gguf.architectures import Config
from inference_rocm.attention import Attention
from inference_rocm.cache import KVCache
from inference_rocm.cpu.kernels import Kernels
from inference_rocm.feed_forward import Dense, Mixture
from inference_rocm.linear import Linear
from inference_rocm.rotary import Rotary
from inference_rocm.spans import Spans

__all__ = ["Block", "Decoder", "Norm"]


@dataclass(frozen=True, slots=True)
class Norm:
    """RMS norm over the last dimension, in float32."""

    weight: Tensor
    epsilon: float
    kernels: Kernels | None = None

    def __call__(self, rows: Tensor) -> Tensor:
        """`rows`: float32 [..., length]; the same comes out."""
        if self.kernels is not None and rows.dim() == 2:
            return self.kernels.rms_norm(rows.contiguous(), self.weight, self.epsilon)
        return F.rms_norm(rows, self.weight.shape, self.weight, self.epsilon)


class Adding(Protocol):
    """A part of a layer whose output goes to the residual stream."""

    def __call__(self, rows: Tensor) -> Tensor: ...

    def add_to(self, stream: Tensor, rows: Tensor) -> None: ...


@dataclass(frozen=True, slots=True)
class Block:
    """One layer."""

    attention_norm: Norm | None
    projections: Linear
    """Queries, keys and values: [tokens, (heads + 2 kv_heads) x head_length]."""
    query_norm: Norm | None
    key_norm: Norm | None
    norms_heads: bool
    """Whether the two norms are of each head by itself, not of all together."""
    rotary: int | None
    """Which of the decoder's rotaries turns queries and keys."""
    attention: Attention
    output: Linear
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
        dtype: torch.dtype,
        kernels: Kernels | None = None,
    ) -> None:
        """`dtype` is the type of everything, unless there are `kernels`."""
        self.config = config
        self.dtype = dtype if kernels is None else torch.float32
        self.kv_type = dtype if kernels is None else torch.bfloat16
        self._kernels = kernels
        self._blocks = tuple(blocks)
        self._output_norm = output_norm
        self._output = output

    @property
    def size_bytes(self) -> int:
        """Bytes that the linear layers' weights take; norms and biases are thousandths of that."""
        layers = (
            linear
            for block in self._blocks
            for linear in (block.projections, block.output, *block.feed_forward.linears)
        )
        return sum(linear.size_bytes for linear in (*layers, self._output))

    def hidden(self, embeddings: Tensor, spans: Spans, cache: KVCache, rotaries: Sequence[Rotary]) -> Tensor:
        """Run the tokens of `spans` through all layers and put their keys and values into `cache`.

        `embeddings`: float32 [tokens, embedding_length], as the file has them; they are computed with in place, and
        what comes out has their place.
        """
        stream = embeddings
        if self.config.embedding_scale != 1:
            stream *= self.config.embedding_scale
        for index, block in enumerate(self._blocks):
            self._layer(block, stream, spans, *cache.layer(index), rotaries)
        return stream

    def logits(self, hidden: Tensor) -> Tensor:
        """Of each row of `hidden`: float32 [rows, vocabulary_size]."""
        config = self.config
        rows = self._output(self._normed(hidden, self._output_norm)).float()
        if config.logit_scale != 1:
            rows *= config.logit_scale
        if config.logit_softcap is not None:
            rows.div_(config.logit_softcap).tanh_().mul_(config.logit_softcap)
        return rows

    def likeliest(self, logits: Tensor) -> list[int]:
        """The token with the greatest of each row's logits; one that is NaN if there is such."""
        found = logits.argmax(dim=-1) if self._kernels is None else self._kernels.argmax(logits)
        tokens: list[int] = found.tolist()
        return tokens

    def _layer(
        self, block: Block, stream: Tensor, spans: Spans, keys: Tensor, values: Tensor, rotaries: Sequence[Rotary]
    ) -> None:
        together = block.projections(self._normed(stream, block.attention_norm))
        rotary = None if block.rotary is None else rotaries[block.rotary]
        query = self._placed(block, together, keys, values, spans, rotary)
        mixed = block.attention(query, keys, values, spans)
        self._add(stream, block.output, mixed, block.attention_post_norm)
        rows = self._normed(stream, block.feed_forward_norm)
        self._add(stream, block.feed_forward, rows, block.feed_forward_post_norm)

    def _normed(self, stream: Tensor, norm: Norm | None) -> Tensor:
        rows = stream if norm is None else norm(stream)
        return rows if rows.dtype == self.dtype else rows.to(self.dtype)

    def _add(self, stream: Tensor, part: Adding, rows: Tensor, norm: Norm | None) -> None:
        """Let a part of the layer add to the residual stream."""
        if norm is None and self.config.residual_scale == 1:
            part.add_to(stream, rows)
        else:
            stream.add_(_normed(part(rows), norm), alpha=self.config.residual_scale)

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
