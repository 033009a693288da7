"""Attention of single tokens over the KV slots: flash-decoding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from inference_rocm.gpu.device import Device
from inference_rocm.gpu.kernels.attend import attend_few, attend_many, join
from inference_rocm.gpu.specimen import Specimen, on_matrix_cores, options
from inference_rocm.gpu.workspace import SHARES_BYTES

__all__ = ["LOG2E", "POINTERS", "Heads", "Memory", "attend", "memories", "product_type", "scaling", "specimens"]

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


# What is compiled ahead of time ---------------------------------------------------------------------------------------

POINTERS = {torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.float32: "*fp32"}


@dataclass(frozen=True, slots=True)
class Memory:
    """A real model's KV memory."""

    model: str
    heads: Heads
    dtype: torch.dtype = torch.float16
    softcap: float | None = None
    sinks: bool = False
    windows: bool = False
    """Whether some layers have one."""
    large: bool = False
    """Whether a layer's keys are 2 GiB or more."""

    def __str__(self) -> str:
        words = [self.model]
        if self.dtype == torch.float32:
            words.append("float32")
        if self.large:
            words.append("2 GiB")
        return ", ".join(words)

    @property
    def arguments(self) -> dict[str, str]:
        pointer = POINTERS[self.dtype]
        return {"keys": pointer, "values": pointer} | ({"sinks": "*fp32"} if self.sinks else {})

    @property
    def absent(self) -> dict[str, None]:
        return {} if self.sinks else {"sinks": None}

    @property
    def large_arguments(self) -> frozenset[str]:
        return frozenset({"keys", "values"}) if self.large else frozenset()


MODELS = (
    Memory("Llama-3 8B", Heads(32, 8, 128)),
    Memory("Qwen3 30B-A3B", Heads(32, 4, 128), torch.bfloat16),
    Memory("SmolLM2", Heads(9, 3, 64)),
    Memory("Gemma 3", Heads(4, 1, 256), torch.bfloat16, windows=True),
    Memory("Gemma 2", Heads(8, 4, 256), torch.bfloat16, softcap=50.0, windows=True),
    Memory("Phi-3 mini", Heads(32, 32, 96)),
    Memory("Qwen2.5 7B", Heads(28, 4, 128), torch.bfloat16),
    Memory("Qwen2.5 1.5B", Heads(12, 2, 128), torch.bfloat16),
    Memory("Qwen3 14B", Heads(40, 8, 128), torch.bfloat16),
    Memory("gpt-oss", Heads(64, 8, 64), torch.bfloat16, sinks=True, windows=True),
)


def memories() -> Iterator[Memory]:
    """All models', below 2 GiB and not; of one with each length of heads, in float32."""
    for model in MODELS:
        yield model
        yield replace(model, large=True)
        if model.model in ("Llama-3 8B", "SmolLM2", "Gemma 3"):
            yield replace(model, dtype=torch.float32)


def specimens(wave: int) -> Iterator[Specimen]:
    """Variants that real models need, on a GPU that is large enough for several shares."""
    device = Device(torch.device("cuda"), wave, units=256)
    for memory in memories():
        yield _decoding_specimen(memory, torch.float32, False, device)
        if not memory.large:
            yield _decoding_specimen(memory, torch.float32, True, device)
        if memory in MODELS:
            yield _decoding_specimen(memory, memory.dtype, False, device)
            yield _decoding_specimen(memory, memory.dtype, True, device)
            yield _joining_specimen(memory, torch.float32)
            yield _joining_specimen(memory, memory.dtype)


def _decoding_specimen(memory: Memory, rows: torch.dtype, direct: bool, device: Device) -> Specimen:
    """`rows`: the type of queries and of what comes out, the memory's own where there are many."""
    ceiling = scaling(1.0, memory.softcap)[1]
    kernel, _, constants, warps = decoding(memory.heads, ceiling, memory.dtype, device)
    of_rows = "" if rows == torch.float32 else ", many rows"
    return Specimen(
        name=f"{kernel.__name__} {memory}{of_rows}{', one share' if direct else ''}",
        kernel=kernel,
        arguments={
            **memory.arguments, "query": POINTERS[rows], "slots": "*i32", "positions": "*i32", "out": POINTERS[rows],
            "mixes": POINTERS[rows] if direct else "*fp32", "tops": POINTERS[rows] if direct else "*fp32",
            "factor": "fp32", "capacity": "i32", "window": "i32",
        },
        constants={**constants, **memory.absent, "DIRECT": direct},
        warps=warps,
        large=memory.large_arguments,
        matrix=kernel is attend_many and on_matrix_cores(memory.dtype.itemsize, device.wave),
    )  # fmt: skip


def _joining_specimen(memory: Memory, rows: torch.dtype) -> Specimen:
    constants, warps = joining(memory.heads)
    sinks = {"sinks": "*fp32"} if memory.sinks else {}
    return Specimen(
        name=f"join {memory}{'' if rows == torch.float32 else ', many rows'}",
        kernel=join,
        arguments={
            "mixes": "*fp32", "tops": "*fp32", "slots": "*i32", "positions": "*i32", **sinks, "out": POINTERS[rows],
            "shares": "i32", "window": "i32",
        },
        constants={**constants, **memory.absent},
        warps=warps,
    )  # fmt: skip
