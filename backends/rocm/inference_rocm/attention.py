"""Attention over what the slots hold, in plain PyTorch; a device's own kernel computes the same."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from inference_rocm.spans import Span, Spans

__all__ = ["FEW", "Attention"]

FEW = 8
"""Up to so many tokens of a slot look at its keys one by one: packing the keys for more would take longer."""
STEP = 64
"""Single tokens look at a multiple of so many positions: the CPU's matmul prepares itself for every new shape, which
takes longer than the multiplication."""


@dataclass(frozen=True, slots=True)
class Attention:
    """Grouped-query attention of one layer."""

    scale: float
    softcap: float | None
    window: int | None
    """Positions that a token sees, itself included; None for all."""
    sinks: Tensor | None
    """[heads]: a logit beside each head's scores."""

    def __call__(self, query: Tensor, keys: Tensor, values: Tensor, spans: Spans) -> Tensor:
        """`query`: [tokens, heads, head_length]. `keys`, `values`: [slots, kv_heads, length, head_length], where those
        of these tokens are in their places already. Gives [tokens, heads x head_length]."""
        parts = []
        if spans.singles:
            parts.append(self._singles(query[: len(spans.singles)], keys, values, spans))
        row = len(spans.singles)
        for span in spans.longer:
            parts.append(self._span(query[row : row + len(span.tokens)], keys[span.slot], values[span.slot], span))
            row += len(span.tokens)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _singles(self, query: Tensor, keys: Tensor, values: Tensor, spans: Spans) -> Tensor:
        """One token of each of several slots, over the positions that any of them sees."""
        count, heads, head_length = query.shape
        kv_heads = keys.shape[1]
        first = 0 if self.window is None else max(0, spans.shortest_single - self.window)
        seen = slice(first, min(-(-spans.longest_single // STEP) * STEP, keys.shape[2]))
        slots = spans.single_range
        keys, values = (
            part[slots, :, seen] if slots is not None else part[:, :, seen].index_select(0, spans.single_slots)
            for part in (keys, values)
        )
        scores = query.view(count, kv_heads, heads // kv_heads, head_length) @ keys.transpose(-1, -2)
        positions = torch.arange(seen.start, seen.stop, device=query.device)
        mask = self._unseen(spans.single_positions[:, None] - positions)[:, None, None]
        return (self._shares(scores, mask, self._sinks(kv_heads, -1, 1)) @ values).reshape(count, -1)

    def _span(self, query: Tensor, keys: Tensor, values: Tensor, span: Span) -> Tensor:
        """Several tokens of one slot."""
        count, heads, head_length = query.shape
        kv_heads = keys.shape[0]
        first = 0 if self.window is None else max(0, span.start + 1 - self.window)
        seen = slice(first, span.end)
        grouped = query.view(count, kv_heads, heads // kv_heads, head_length).permute(1, 2, 0, 3)
        stacked = grouped.reshape(kv_heads, -1, head_length)
        scores = (stacked @ keys[:, seen].transpose(-1, -2)).view(kv_heads, heads // kv_heads, count, -1)
        positions = torch.arange(seen.start, seen.stop, device=query.device)
        distance = torch.arange(span.start, span.end, device=query.device)[:, None] - positions
        mask = self._unseen(distance)
        shares = self._shares(scores, mask, self._sinks(kv_heads, -1, 1, 1)).view(kv_heads, -1, seen.stop - seen.start)
        mixed = (shares @ values[:, seen]).view(kv_heads, heads // kv_heads, count, head_length)
        return mixed.permute(2, 0, 1, 3).reshape(count, -1)

    def _shares(self, scores: Tensor, mask: Tensor | None, sinks: Tensor | None) -> Tensor:
        """How much of each value is taken: [..., keys]. `mask` is true where a key is not seen."""
        dtype, scores = scores.dtype, scores.float().mul_(self.scale)
        if self.softcap is not None:
            scores.div_(self.softcap).tanh_().mul_(self.softcap)
        if mask is not None:
            scores.masked_fill_(mask, -torch.inf)
        if sinks is None:
            return torch.softmax(scores, dim=-1).to(dtype)
        highest = torch.maximum(scores.amax(dim=-1, keepdim=True), sinks)
        raised = (scores - highest).exp_()
        return (raised / (raised.sum(dim=-1, keepdim=True) + (sinks - highest).exp())).to(dtype)

    def _unseen(self, distance: Tensor) -> Tensor:
        """Where a key lies ahead, or before the window."""
        return distance < 0 if self.window is None else (distance < 0) | (distance >= self.window)

    def _sinks(self, *shape: int) -> Tensor | None:
        return None if self.sinks is None else self.sinks.view(shape)
