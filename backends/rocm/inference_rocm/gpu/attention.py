"""Attention of single tokens over the KV slots: flash-decoding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from inference_rocm.gpu.device import Device
from inference_rocm.gpu.kernels.attend import attend_few, attend_many, join
from inference_rocm.gpu.specimen import Specimen, options
from inference_rocm.gpu.workspace import SHARES_BYTES

__all__ = ["LOG2E", "Heads", "attend", "scaling", "specimens"]

LOG2E = 1.4426950408889634
STEP = 64
"""Positions of the shortest share of a context; the others are multiples of it."""
LANES = 256
"""For each compute unit, from one row: so long as its context has that many shares."""
JOINED = 8
"""Shares that are joined at a time."""
TYPES = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}


@dataclass(frozen=True, slots=True)
class Heads:
    """The shape of a layer's attention."""

    heads: int
    kv_heads: int
    length: int

    @classmethod
    def of(cls, query: Tensor, keys: Tensor) -> Heads:
        return cls(query.shape[1], keys.shape[1], keys.shape[3])

    @property
    def group(self) -> int:
        """Heads that share a key."""
        return self.heads // self.kv_heads

    @property
    def padded(self) -> int:
        """Blocks of Triton are powers of two."""
        padded: int = triton.next_power_of_2(self.length)
        return padded

    @property
    def constants(self) -> dict[str, Any]:
        return {"KV_HEADS": self.kv_heads, "GROUP": self.group, "LENGTH": self.length, "PADDED": self.padded}


def attend(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    slots: Tensor,
    positions: Tensor,
    out: Tensor,
    *,
    scale: float,
    softcap: float | None,
    window: int | None,
    sinks: Tensor | None,
    device: Device,
) -> None:
    """`out`, [rows, heads x head_length] of any float type, becomes what each row's token takes of its slot's values.

    Args:
        query: [rows, heads, head_length], of any float type.
        keys: [slots, kv_heads, length, head_length], as are the values. What is not seen is not read.
        slots: int32 [rows]; below 0 for a row that pads the others, which gives zeros. Rows may share a slot.
        positions: int32 [rows]: the last position that a row sees.
        window: positions that a token sees, itself included; None for all.
        sinks: float32 [heads]: a logit beside each head's scores.

    All tensors are contiguous. A row gives the same bits whatever the other rows are.
    """
    heads, capacity = Heads.of(query, keys), keys.shape[2]
    rows = query.shape[0]
    reach = capacity if window is None else min(window, capacity)
    shares = share_count(heads, reach, device)
    factor, ceiling = scaling(scale, softcap)
    kernel, programs, constants, warps = decoding(heads, ceiling, keys.dtype, device)
    direct = shares == 1
    mixes, tops, at_once = out, out, rows
    if not direct:
        at_once = min(rows, rows_at_once(heads, shares))
        mixes = torch.empty(at_once, heads.heads, shares, heads.length, device=out.device)
        tops = torch.empty(at_once, heads.heads, shares, 2, device=out.device)
    for first in range(0, rows, at_once):
        some = slice(first, first + at_once)
        count, seen = len(slots[some]), (slots[some], positions[some])
        kernel[(count, programs, shares)](
            query[some], keys, values, *seen, sinks, out[some], mixes, tops, factor, capacity, reach,
            **constants, DIRECT=direct, **options(warps),
        )  # fmt: skip
        if not direct:
            joined, joining_warps = joining(heads)
            join[(count, heads.heads)](
                mixes, tops, *seen, sinks, out[some], shares, reach, **joined, **options(joining_warps)
            )  # fmt: skip


def rows_at_once(heads: Heads, shares: int) -> int:
    """As many rows as `SHARES_BYTES` hold the shares of, in powers of two."""
    row = 4 * heads.heads * shares * (heads.length + 2)
    return 1 << max(0, (SHARES_BYTES // row).bit_length() - 1)


def share_count(heads: Heads, reach: int, device: Device) -> int:
    """Into how many shares a context is split at most. It does not hang on the number of rows, so that a row's bits do
    not either; programs beyond what fills the device wait for their turn."""
    wanted = -(-(LANES // device.wave * device.units) // heads.kv_heads)
    return max(1, min(-(-reach // STEP), wanted))


def scaling(scale: float, softcap: float | None) -> tuple[float, float | None]:
    """`factor` and `CEILING` of the kernels' `score`."""
    if softcap is None:
        return scale * LOG2E, None
    return 2 * LOG2E * scale / softcap, softcap * LOG2E


def product_type(dtype: torch.dtype, device: Device) -> tl.dtype:
    """What is multiplied with keys and values of a type. The interpreter cannot multiply bfloat16."""
    return TYPES[torch.float32 if device.interpreted and dtype == torch.bfloat16 else dtype]


def decoding(
    heads: Heads, ceiling: float | None, dtype: torch.dtype, device: Device
) -> tuple[Any, int, dict[str, Any], int]:
    """The kernel for heads of a shape, its programs for each share of a row, its constants, its warps.

    A program is one warp, which has nothing to wait for: loads, and no barriers, are what its loop consists of. Heads
    are taken one by one, in float32, where the matrix cores have no use: for very small groups; and on RDNA, whose
    matrix instructions want keys and values laid out in a way that takes longer than to do without.
    """
    constants = {**heads.constants, "CEILING": ceiling, "STEP": STEP}
    if device.wave == 64 and heads.group > 2:
        keys = 4 * STEP if device.interpreted else max(16, min(32, 4096 // heads.padded))
        blocks = {"HEADS": max(16, triton.next_power_of_2(heads.group)), "KEYS": keys}
        return attend_many, heads.kv_heads, {**constants, **blocks, "TYPE": product_type(dtype, device)}, 1
    taken = max(count for count in range(1, 9) if heads.group % count == 0)
    # A lane of the device holds 16 bytes of each of some keys.
    lanes, tiles = max(1, device.wave * 8 // heads.padded), 4 if taken <= 4 else 2
    if device.interpreted:
        lanes, tiles = 4 * STEP, 1
    blocks = {"TAKEN": taken, "LANES": lanes, "TILES": tiles}
    return attend_few, heads.heads // taken, {**constants, **blocks}, 1


def joining(heads: Heads) -> tuple[dict[str, Any], int]:
    sizes = {"HEADS": heads.heads, "LENGTH": heads.length, "PADDED": heads.padded}
    return {**sizes, "STEP": STEP, "LANES": JOINED}, 4


SHAPES = {
    "Llama-3 8B": (Heads(32, 8, 128), None, False),
    "Qwen3 30B-A3B": (Heads(32, 4, 128), None, False),
    "SmolLM2": (Heads(9, 3, 64), None, False),
    "Gemma 3": (Heads(4, 1, 256), None, False),
    "Gemma 2": (Heads(8, 4, 256), 50.0, False),
    "Phi-3 mini": (Heads(32, 32, 96), None, False),
    "gpt-oss": (Heads(64, 8, 64), None, True),
}
"""Of real models: heads, soft-cap, and whether there are sinks."""


def specimens(wave: int) -> Iterator[Specimen]:
    """Variants that real models need, on a GPU that is large enough for several shares."""
    device = Device(torch.device("cuda"), wave, units=256)
    for model, (heads, softcap, with_sinks) in SHAPES.items():
        # gpt-oss is kept in bfloat16, as are Gemma's activations; the others in float16.
        dtype, name = (torch.bfloat16, "*bf16") if model[:3] in ("gpt", "Gem") else (torch.float16, "*fp16")
        sinks, none = ({"sinks": "*fp32"}, {}) if with_sinks else ({}, {"sinks": None})
        kernel, _, constants, warps = decoding(heads, scaling(1.0, softcap)[1], dtype, device)
        for direct in (False, True):
            yield Specimen(
                name=f"{kernel.__name__} {model}{', one share' if direct else ''}",
                kernel=kernel,
                arguments={
                    "query": "*fp32", "keys": name, "values": name, "slots": "*i32", "positions": "*i32", **sinks,
                    "out": "*fp32", "mixes": "*fp32", "tops": "*fp32",
                    "factor": "fp32", "capacity": "i32", "window": "i32",
                },
                constants={**constants, **none, "DIRECT": direct},
                warps=warps,
            )  # fmt: skip
        constants, warps = joining(heads)
        yield Specimen(
            name=f"join {model}",
            kernel=join,
            arguments={
                "mixes": "*fp32", "tops": "*fp32", "slots": "*i32", "positions": "*i32", **sinks, "out": "*fp32",
                "shares": "i32", "window": "i32",
            },
            constants={**constants, **none},
            warps=warps,
        )  # fmt: skip
