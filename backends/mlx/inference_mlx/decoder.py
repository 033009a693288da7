"""The forward pass: mlx-lm's layers over mlx-lm's caches, and what comes before and after them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.base import create_attention_mask
from mlx_lm.models.cache import KVCache, RotatingKVCache, make_prompt_cache

from inference.gguf.architectures import Config

__all__ = ["Caches", "Decoder", "GGUFDecoder", "NativeDecoder"]

Caches: TypeAlias = list[Any]
"""One of mlx-lm's KV caches for each layer, of one sequence or of a batch."""


class Decoder(Protocol):
    """A model, ready to be computed."""

    vocabulary_size: int
    pads: bool
    """Whether prompts of different lengths may be computed together, the shorter ones padded."""
    whole: int
    """Most tokens of a prompt that are computed in one pass with its last one."""
    batches: bool
    """Whether several sequences may be computed together at all."""

    def caches(self) -> Caches:
        """KV memory for one sequence, empty."""

    def __call__(self, tokens: mx.array, caches: Caches, last: Sequence[int]) -> mx.array:
        """Append `tokens`, ids [batch, tokens], to what `caches` hold. Returns the logits after token `last[i]` of each
        row: float32 [batch, vocabulary], not computed before they are asked for."""


class GGUFDecoder:
    """The layers of an mlx-lm model, filled from a GGUF file by `building`.

    mlx-lm's own loops over the layers fix what files leave open: which layers have a window, what embeddings are scaled
    by and in which type, what caps the logits.
    """

    def __init__(
        self,
        config: Config,
        model: nn.Module,
        embedding: nn.Module,
        norm: nn.Module,
        output: nn.Module | None,
        output_bias: mx.array | None,
        *,
        context_length: int,
        wide_mask: bool,
    ) -> None:
        """`model` is mlx-lm's, with the same weights. Without `output`, the embeddings serve."""
        self.vocabulary_size = config.vocabulary_size
        self.pads = self.batches = True
        self.whole = 64
        self.model = model
        self._config = config
        self._layers: list[nn.Module] = list(model.layers)
        # A window that nothing outgrows is none: its cache can then be cut.
        self._windows = [
            layer.window if layer.window and layer.window < context_length else None for layer in config.layers
        ]
        self._embedding = embedding
        self._norm = norm
        self._output = embedding.as_linear if output is None else output
        self._output_bias = output_bias
        self._wide_mask = wide_mask and config.heads > config.kv_heads

    def caches(self) -> Caches:
        return [KVCache() if window is None else RotatingKVCache(max_size=window) for window in self._windows]

    def __call__(self, tokens: mx.array, caches: Caches, last: Sequence[int]) -> mx.array:
        return self.logits(_rows(self.hidden(tokens, caches), last))

    def hidden(self, tokens: mx.array, caches: Caches) -> mx.array:
        """What the last layer gives: [batch, tokens, embedding]."""
        hidden: mx.array = self._embedding(tokens)
        if self._config.embedding_scale != 1.0:
            hidden = hidden * self._config.embedding_scale
        masks: dict[int | None, mx.array | str | None] = {}
        for layer, window, cache in zip(self._layers, self._windows, caches, strict=True):
            if window not in masks:
                masks[window] = self._mask(hidden, cache, window)
            hidden = layer(hidden, masks[window], cache)
        return hidden

    def logits(self, hidden: mx.array) -> mx.array:
        """float32 [..., vocabulary] from what the last layer gives, [..., embedding]."""
        config = self._config
        logits: mx.array = self._output(self._norm(hidden)).astype(mx.float32)
        if self._output_bias is not None:
            logits = logits + self._output_bias
        if config.logit_scale != 1.0:
            logits = logits * config.logit_scale
        if config.logit_softcap is not None:
            logits = mx.tanh(logits / config.logit_softcap) * config.logit_softcap
        return logits

    def _mask(self, hidden: mx.array, cache: Any, window: int | None) -> mx.array | str | None:
        mask: mx.array | str | None = create_attention_mask(
            hidden, cache, window_size=window, return_array=self._wide_mask
        )
        return mask[:, :, None] if self._wide_mask and isinstance(mask, mx.array) and mask.ndim == 4 else mask


class NativeDecoder:
    """A model that mlx-lm loaded itself."""

    def __init__(self, model: nn.Module, vocabulary_size: int) -> None:
        self.model = model
        self.vocabulary_size = vocabulary_size
        self.batches = True
        self.whole = 1  # mlx-lm's models give logits for every token
        # Recurrent layers take padding for text.
        self.pads = all(type(cache) in (KVCache, RotatingKVCache) for cache in self.caches())

    def caches(self) -> Caches:
        caches: Caches = make_prompt_cache(self.model)
        return caches

    def __call__(self, tokens: mx.array, caches: Caches, last: Sequence[int]) -> mx.array:
        return _rows(self.model(tokens, cache=caches), last).astype(mx.float32)


def _rows(values: mx.array, last: Sequence[int]) -> mx.array:
    """Of each batch's [tokens, ...] the row `last[i]`."""
    batch, tokens, _ = values.shape
    if tokens == 1:
        return values[:, 0]
    if batch == 1:
        return values[:, last[0]]
    return values[mx.arange(batch), mx.array(list(last))]
