"""Attention by definition, and by the GPU's kernels on any device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from inference_rocm.gpu.attention import attend
from inference_rocm.gpu.device import INTERPRETER, Device
from inference_rocm.gpu.span_attention import attend_spans, query_tiles, tile_tokens
from inference_rocm.spans import Span
from torch import Tensor

__all__ = [
    "CAPACITY",
    "CLOSE",
    "NAN",
    "TYPES",
    "Attending",
    "places",
    "random_memory",
    "require_close",
    "require_right",
    "require_seen_to_the_ends",
    "span",
]

CAPACITY = 200
NAN = float("nan")
TYPES = [torch.float32, torch.float16, torch.bfloat16]
CLOSE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
"""Shares of the largest. Matrix cores multiply what is rounded to the cache's type: queries, and what each value takes
part with. The interpreter cuts numbers off to bfloat16 where a GPU rounds them: two units in the last place of 8 bits
are let pass."""


@dataclass(frozen=True)
class Attending:
    """How a layer attends."""

    scale: float = 0.2
    softcap: float | None = None
    window: int | None = None
    sinks: Tensor | None = None

    def __call__(
        self, query: Tensor, keys: Tensor, values: Tensor, slots: Sequence[int], positions: Sequence[int]
    ) -> Tensor:
        """By definition, in float64."""
        out = torch.zeros(query.shape, dtype=torch.float64)
        shared = query.shape[1] // keys.shape[1]
        for row, (slot, position) in enumerate(zip(slots, positions, strict=True)):
            if slot < 0:
                continue
            first = 0 if self.window is None else max(0, position + 1 - self.window)
            seen_keys, seen_values = (
                part[slot, :, first : position + 1].double().repeat_interleave(shared, 0) for part in (keys, values)
            )
            scores = torch.einsum("hl,hkl->hk", query[row].double(), seen_keys) * self.scale
            if self.softcap is not None:
                scores = self.softcap * torch.tanh(scores / self.softcap)
            if self.sinks is not None:
                scores = torch.cat([scores, self.sinks.double()[:, None]], dim=1)
            shares = torch.softmax(scores, dim=1)[:, : seen_keys.shape[1]]
            out[row] = torch.einsum("hk,hkl->hl", shares, seen_values)
        return out.flatten(1)

    def singles(
        self,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        slots: Sequence[int],
        positions: Sequence[int],
        device: Device = INTERPRETER,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """What the kernels for single tokens give, in `dtype`."""
        here = device.torch
        out = torch.full((len(query), query.shape[1] * query.shape[2]), NAN, dtype=dtype, device=here)
        where = (torch.tensor(list(numbers), dtype=torch.int32, device=here) for numbers in (slots, positions))
        attend(query.to(here), keys.to(here), values.to(here), *where, out, device=device, **self._rules(device))
        return out.cpu()

    def spans(
        self, query: Tensor, keys: Tensor, values: Tensor, spans: Sequence[Span], device: Device = INTERPRETER
    ) -> Tensor:
        """What the kernel for spans gives, in the query's type."""
        here = device.torch
        block = tile_tokens(query.shape[1], keys.shape[1], query.shape[2], device)
        tiles = torch.tensor(query_tiles(spans, block), dtype=torch.int32, device=here)
        out = torch.full((len(query), query.shape[1] * query.shape[2]), NAN, dtype=query.dtype, device=here)
        attend_spans(query.to(here), keys.to(here), values.to(here), tiles, out, device=device, **self._rules(device))
        return out.cpu()

    def _rules(self, device: Device) -> dict[str, Any]:
        sinks = None if self.sinks is None else self.sinks.to(device.torch)
        return {"scale": self.scale, "softcap": self.softcap, "window": self.window, "sinks": sinks}


def random_memory(
    kv_heads: int, length: int, dtype: torch.dtype = torch.float32, slots: int = 3, capacity: int = CAPACITY
) -> tuple[Tensor, Tensor]:
    keys, values = (torch.randn(slots, kv_heads, capacity, length).to(dtype) for _ in range(2))
    return keys, values


def require_close(found: Tensor, wanted: Tensor, share: float) -> None:
    assert found.isfinite().all()
    difference = (found.double() - wanted).abs().max() / wanted.abs().max()
    assert difference <= share, f"{difference:.1e} of the largest"


def span(slot: int, start: int, count: int) -> Span:
    return Span(slot, start, [0] * count)


def places(spans: Sequence[Span]) -> tuple[list[int], list[int]]:
    """Slots and positions of all tokens."""
    slots = [each.slot for each in spans for _ in each.tokens]
    return slots, [position for each in spans for position in range(each.start, each.end)]


def require_right(
    attending: Attending, heads: int, kv_heads: int, length: int, dtype: torch.dtype, device: Device, share: float
) -> None:
    """Single tokens and spans of several slots."""
    keys, values = random_memory(kv_heads, length, dtype)
    slots, positions = [2, 0], [0, 190]
    query = torch.randn(2, heads, length)
    found = attending.singles(query, keys, values, slots, positions, device)
    require_close(found, attending(query, keys, values, slots, positions), share)
    spans = [span(1, 0, 3), span(2, 120, 20)]
    query = torch.randn(23, heads, length).to(dtype)
    found = attending.spans(query, keys, values, spans, device)
    require_close(found, attending(query, keys, values, *places(spans)), share)


def require_seen_to_the_ends(
    window: int | None, heads: int, length: int, dtype: torch.dtype, device: Device, share: float
) -> None:
    """Of a context of thousands, with a score for one key near each end of what is seen that makes it count."""
    keys, values = random_memory(1, length, dtype, slots=2, capacity=6400)
    query, attending = torch.randn(8, heads, length), Attending(window=window)
    first = 0 if window is None else 6007 + 1 - window
    for place in (first, first + 1, 3100, 6000):
        keys[1, 0, place] = query[:, 0].mean(0) * 9
    slots, positions = [1] * 8, range(6000, 6008)
    wanted = attending(query, keys, values, slots, positions)
    found = attending.singles(query[-2:], keys, values, [1, 1], [6006, 6007], device)
    require_close(found, wanted[-2:], share)
    require_close(attending.spans(query, keys, values, [span(1, 6000, 8)], device), wanted, share)
