"""Attention of many tokens of a slot: flash attention over tiles of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from inference_rocm.gpu.attention import POINTERS, Heads, Memory, memories, product_type, scaling
from inference_rocm.gpu.device import Device
from inference_rocm.gpu.kernels.attend_span import attend_span
from inference_rocm.gpu.specimen import Specimen, on_matrix_cores, options
from inference_rocm.spans import Span

__all__ = ["attend_spans", "query_tiles", "specimens", "tile_tokens"]

LARGE = 2**31
"""Bytes of memory from which on Triton finds keys by pointers of 64 bits."""


def tile_tokens(heads: int, kv_heads: int, head_length: int, device: Device) -> int:
    """Tokens of a tile: the `block` of `query_tiles`."""
    shape = Heads(heads, kv_heads, head_length)
    rows: int = blocks(shape, device)["ROWS"]
    return rows // shape.group


def query_tiles(spans: Sequence[Span], block: int) -> list[tuple[int, int, int, int]]:
    """Up to `block` tokens each of spans that lie one after the other in the rows of a query: a tile's first row, its
    tokens, their slot, and the position of the first."""
    tiles: list[tuple[int, int, int, int]] = []
    row = 0
    for span in spans:
        count = len(span.tokens)
        tiles += [(row + at, min(block, count - at), span.slot, span.start + at) for at in range(0, count, block)]
        row += count
    return tiles


def attend_spans(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    tiles: Tensor,
    out: Tensor,
    *,
    scale: float,
    softcap: float | None,
    window: int | None,
    sinks: Tensor | None,
    device: Device,
) -> None:
    """`out`, [tokens, heads x head_length] of any float type, becomes what each token takes of its slot's values.

    Args:
        query: [tokens, heads, head_length], of any float type; it is rounded to that of the keys.
        keys: [slots, kv_heads, length, head_length], as are the values; these tokens' own are in their places already.
        tiles: int32 [n, 4]: `query_tiles` of the spans, by `tile_tokens`. Rows that are in none stay as they are.
        window: positions that a token sees, itself included; None for all.
        sinks: float32 [heads]: a logit beside each head's scores.

    All tensors are contiguous. A token's arithmetic is the same whatever tile it is in; but blocks of keys are taken in
    by two loops, with a mask and without, which a compiler may round differently.
    """
    heads, capacity = Heads.of(query, keys), keys.shape[2]
    windowed = window is not None and window < capacity
    factor, ceiling = scaling(scale, softcap)
    large = keys.untyped_storage().nbytes() >= LARGE
    constants, warps = spanning(heads, ceiling, keys.dtype, windowed, device, large=large)
    attend_span[(heads.kv_heads, tiles.shape[0])](
        query, keys, values, tiles, sinks, out, factor, capacity, window if windowed else capacity,
        **constants, **options(warps),
    )  # fmt: skip


def spanning(
    heads: Heads, ceiling: float | None, dtype: torch.dtype, windowed: bool, device: Device, *, large: bool = False
) -> tuple[dict[str, Any], int]:
    """The kernel's constants and warps. `large`: whether keys and values are."""
    sizes = blocks(heads, device, dtype.itemsize, large=large)
    warps = sizes.pop("warps")
    constants = {**heads.constants, **sizes, "CEILING": ceiling, "WINDOWED": windowed}
    return {**constants, "TYPE": product_type(dtype, device)}, warps


def blocks(heads: Heads, device: Device, itemsize: int = 2, *, large: bool = False) -> dict[str, int]:
    """Rows of a tile, tokens x heads; keys of a block; elements of a piece of a head; stages of the pipeline that loads
    keys and values. As large as registers allow for two waves at once on CDNA, for one without spills on RDNA 3, which
    holds twice what it multiplies: a long head goes in pieces there.

    `itemsize`: of keys and values, and `large`: whether Triton finds them by pointers of 64 bits. Both make pieces
    smaller on RDNA, and no difference to the rows."""
    padded = heads.padded
    rows, keys, piece, warps = 64, 32, padded, 4
    if device.wave == 64:
        rows, keys = 128 if padded <= 128 else 64, max(16, min(64, 4096 // padded))
    elif itemsize == 4:
        keys, piece, warps = 16, min(padded, 32), 8
    elif padded > 128:
        piece, warps = 32 if large else 64, 8
    elif padded == 128:
        keys = 16
    if device.interpreted:
        rows, keys = 64, 64
    rows = max(rows, triton.next_power_of_2(heads.group))
    return {"ROWS": rows, "KEYS": keys, "PIECE": piece, "STAGES": 1, "warps": warps}


def specimens(wave: int) -> Iterator[Specimen]:
    """Variants that real models need."""
    device = Device(torch.device("cuda"), wave, units=256)
    for memory in memories():
        for windowed in (False, True) if memory.windows else (False,):
            yield _specimen(memory, memory.dtype, windowed, device)
            if memory.dtype != torch.float32:
                yield _specimen(memory, torch.float32, windowed, device)


def _specimen(memory: Memory, rows: torch.dtype, windowed: bool, device: Device) -> Specimen:
    """`rows`: the type of queries and of what comes out, float32 where there are few."""
    ceiling = scaling(1.0, memory.softcap)[1]
    constants, warps = spanning(memory.heads, ceiling, memory.dtype, windowed, device, large=memory.large)
    of_rows = "" if rows == memory.dtype else ", few rows"
    return Specimen(
        name=f"attend_span {memory}{of_rows}{', window' if windowed else ''}",
        kernel=attend_span,
        arguments={
            **memory.arguments, "query": POINTERS[rows], "tiles": "*i32", "out": POINTERS[rows],
            "factor": "fp32", "capacity": "i32", "window": "i32",
        },
        constants={**constants, **memory.absent},
        warps=warps,
        large=memory.large_arguments,
        matrix=on_matrix_cores(memory.dtype.itemsize, device.wave),
    )  # fmt: skip
