"""The decoder: every architecture of `inference.gguf`, in the operations of whatever device computes it.

The residual stream is float32; what linear layers take is in the operations' type.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol

from torch import Tensor

from inference.gguf.architectures import Config
from inference_rocm.attention import Attention
from inference_rocm.cache import KVCache
from inference_rocm.feed_forward import Dense, Mixture
from inference_rocm.linear import Linear
from inference_rocm.operations import HeadNorms, Norm, Operations, PassT
from inference_rocm.rotary import Rotary

__all__ = ["Block", "Decoder"]


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
    head_norms: HeadNorms | None
    rotary: int | None
    """Which of the decoder's rotaries turns queries and keys."""
    attention: Attention
    output: Linear
    attention_post_norm: Norm | None
    feed_forward_norm: Norm | None
    feed_forward: Dense | Mixture
    feed_forward_post_norm: Norm | None


class Decoder(Generic[PassT]):
    """A model's weights and what is computed with them. It holds no sequence: that is the cache's."""

    def __init__(
        self,
        config: Config,
        blocks: Sequence[Block],
        output_norm: Norm,
        output: Linear,
        operations: Operations[PassT],
    ) -> None:
        self.config = config
        self.kv_type = operations.kv_type
        self._operations = operations
        self._blocks = tuple(blocks)
        self._output_norm = output_norm
        self.output = output

    @property
    def size_bytes(self) -> int:
        """Bytes that the linear layers' weights take; norms and biases are thousandths of that."""
        layers = (part for block in self._blocks for part in (block.projections, block.output, block.feed_forward))
        return sum(part.size_bytes for part in (*layers, self.output))

    def hidden(self, embeddings: Tensor, places: PassT, cache: KVCache, rotaries: Sequence[Rotary]) -> Tensor:
        """Run the tokens at `places` through all layers and put their keys and values into `cache`.

        `embeddings`: float32 [tokens, embedding_length], as the file has them; they are computed with in place, and
        what comes out has their place.
        """
        stream = embeddings
        if self.config.embedding_scale != 1:
            stream *= self.config.embedding_scale
        for index, block in enumerate(self._blocks):
            self._layer(block, stream, places, *cache.layer(index), rotaries)
        return stream

    def logits(self, hidden: Tensor) -> Tensor:
        """Of each row of `hidden`: float32 [rows, vocabulary_size]."""
        config = self.config
        rows = self.output(self._operations.normed(hidden, self._output_norm)).float()
        if config.logit_scale != 1:
            rows *= config.logit_scale
        if config.logit_softcap is not None:
            rows.div_(config.logit_softcap).tanh_().mul_(config.logit_softcap)
        return rows

    def likeliest(self, logits: Tensor) -> list[int]:
        """The token with the greatest of each row's logits; one that is NaN if there is such."""
        tokens: list[int] = self._operations.likeliest(logits).tolist()
        return tokens

    def _layer(
        self, block: Block, stream: Tensor, places: PassT, keys: Tensor, values: Tensor, rotaries: Sequence[Rotary]
    ) -> None:
        operations = self._operations
        together = block.projections(operations.normed(stream, block.attention_norm))
        rotary = None if block.rotary is None else rotaries[block.rotary]
        query = operations.place(together, keys, values, places, rotary, block.head_norms)
        mixed = operations.attend(block.attention, query, keys, values, places)
        self._add(stream, block.output, mixed, block.attention_post_norm)
        rows = operations.normed(stream, block.feed_forward_norm)
        self._add(stream, block.feed_forward, rows, block.feed_forward_post_norm)

    def _add(self, stream: Tensor, part: Adding, rows: Tensor, norm: Norm | None) -> None:
        """Let a part of the layer add to the residual stream."""
        scale = self.config.residual_scale
        if norm is None and scale == 1:
            part.add_to(stream, rows)
        else:
            self._operations.add(stream, part(rows), norm, scale)
