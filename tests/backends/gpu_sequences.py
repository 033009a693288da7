"""The GPU's decoder with its KV memory, fed by hand, on any device."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from inference_rocm.building import build_decoder, ropes_of
from inference_rocm.cache import KVCache
from inference_rocm.gpu.device import INTERPRETER, Device
from inference_rocm.gpu.embedding import Embedding
from inference_rocm.gpu.linear import weights_of
from inference_rocm.gpu.operations import TritonOperations
from inference_rocm.gpu.places import Places
from inference_rocm.gpu.span_attention import query_tiles, tile_tokens
from inference_rocm.packing import Source, rows_of
from inference_rocm.rotary import Rotary
from inference_rocm.spans import Span
from numpy.typing import NDArray

from inference.gguf.architectures import config_of
from inference.gguf.half_types import half_type
from inference.gguf.reader import read_header
from inference.gguf.rope_factors import rope_factors
from inference.gguf.weights import Weights

__all__ = ["GPUSequences", "engine_of"]


class GPUSequences:
    """`half` is the type of keys, values and of what matrix cores multiply. `operations` are the decoder's."""

    def __init__(
        self,
        path: Path,
        half: torch.dtype = torch.float32,
        *,
        slots: int = 4,
        length: int = 64,
        device: Device = INTERPRETER,
        operations: type[TritonOperations] = TritonOperations,
    ) -> None:
        self.weights = Weights(read_header(path))
        self.config = config_of(self.weights.header)
        self.device = device
        self.decoder = build_decoder(self.weights, self.config, operations(device, half), device.torch)
        factors = rope_factors(self.weights, self.config, length)
        self.rotaries = [Rotary(rope, factors, length, device.torch) for rope in ropes_of(self.config)]
        self.cache = KVCache(self.config, slots, length, half, device.torch)
        rows = rows_of(self.weights, [Source(self.config.embedding)], None)
        self.embedding = Embedding(weights_of(rows.layout, rows.pieces, rows.outputs, rows.inputs, device), device)
        self.last = torch.zeros(slots, dtype=torch.int32, device=device.torch)

    @torch.inference_mode()
    def logits(self, *spans: Span, last: int | None = None) -> dict[int, NDArray[Any]]:
        """The logits after every token of each slot's span, or after its `last` ones, which may be none."""
        tokens = self._integers([token for span in spans for token in span.tokens])
        slots = self._integers([span.slot for span in spans for _ in span.tokens])
        positions = self._integers([position for span in spans for position in range(span.start, span.end)])
        tiles = None
        if any(len(span.tokens) > 1 for span in spans):
            config = self.config
            block = tile_tokens(config.heads, config.kv_heads, config.head_length, self.device)
            tiles = self._integers(query_tiles(spans, block))
        places = Places(slots, positions, tiles)
        embeddings = self.embedding(tokens, self.last, slots)
        hidden = self.decoder.hidden(embeddings, places, self.cache, self.rotaries)
        asked: dict[int, list[int]] = {}
        row = 0
        for span in spans:
            row += len(span.tokens)
            count = len(span.tokens) if last is None else min(last, len(span.tokens))
            asked[span.slot] = [*range(row - count, row)]
        if last == 0:
            return {slot: np.empty((0, self.config.vocabulary_size), np.float32) for slot in asked}
        rows = self.decoder.logits(hidden[[row for rows in asked.values() for row in rows]]).cpu().numpy()
        ends = np.cumsum([len(rows) for rows in asked.values()])
        return dict(zip(asked, np.split(rows, ends[:-1]), strict=True))

    def _integers(self, values: Sequence[int] | Sequence[Sequence[int]]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int32, device=self.device.torch)

    def in_pieces(self, tokens: Sequence[int], lengths: Sequence[int], slot: int = 1) -> NDArray[Any]:
        assert sum(lengths) == len(tokens)
        rows, start = [], 0
        for length in lengths:
            rows.append(self.logits(Span(slot, start, tokens[start : start + length]))[slot])
            start += length
        return np.concatenate(rows)


def engine_of(path: Path, device: Device = INTERPRETER) -> GPUSequences:
    """A file's decoder as the backend builds it."""
    return GPUSequences(path, getattr(torch, half_type(read_header(path))), device=device)
