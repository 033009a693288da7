"""What lies between the layers: norms, activation functions, heads and their places."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import triton
from torch import Tensor

from inference.gguf.architectures import Activation
from inference_rocm.gpu.device import Device
from inference_rocm.gpu.kernels import gate as gates
from inference_rocm.gpu.kernels import norm
from inference_rocm.gpu.kernels import place as placing
from inference_rocm.gpu.specimen import Specimen, options

__all__ = ["add_normed", "gate", "place_heads", "rms_norm", "specimens"]

_ACTIVATIONS: dict[Activation, Any] = {
    "silu": gates.silu,
    "gelu": gates.gelu,
    "clamped_swiglu": gates.clamped_swiglu,
}


def rms_norm(
    rows: Tensor, weight: Tensor, epsilon: float, out_dtype: torch.dtype, device: Device, out: Tensor | None = None
) -> Tensor:
    """Of each row of [n, length], whose elements lie side by side; computed in float32.

    `weight`: float32 [length]. `out`: where to put it, which may be the rows themselves; else a new tensor is made.
    """
    count, length = rows.shape
    if out is None:
        out = torch.empty(count, length, dtype=out_dtype, device=rows.device)
    constants, warps = _row_blocks(length, device)
    strides = {"STRIDE": rows.stride(0), "OUT_STRIDE": out.stride(0)}
    norm.rms_norm[(count,)](rows, weight, out, epsilon, **strides, **constants, **options(warps))
    return out


def add_normed(
    stream: Tensor, rows: Tensor, weight: Tensor | None, epsilon: float, scale: float, device: Device
) -> None:
    """`stream`, float32 [n, length], grows by scale x the RMS norm of the rows; by scale x rows if there is no weight,
    float32 [length]."""
    count, length = rows.shape
    constants, warps = _row_blocks(length, device)
    strides = {"STRIDE": stream.stride(0), "ROWS_STRIDE": rows.stride(0)}
    norm.add_normed[(count,)](stream, rows, weight, epsilon, scale, **strides, **constants, **options(warps))


def gate(gate_up: Tensor, activation: Activation, out_dtype: torch.dtype, device: Device) -> Tensor:
    """activation(gate) x up, [n, length], of rows that hold all gates and then all ups, [n, 2 x length]."""
    count, length = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty(count, length, dtype=out_dtype, device=gate_up.device)
    block, warps = _gate_block(length, device)
    gates.gate[(count, triton.cdiv(length, block))](
        gate_up, out, activation=_ACTIVATIONS[activation], LENGTH=length, STRIDE=gate_up.stride(0), BLOCK=block,
        **options(warps),
    )  # fmt: skip
    return out


def place_heads(
    together: Tensor,
    keys: Tensor,
    values: Tensor,
    slots: Tensor,
    positions: Tensor,
    tables: tuple[Tensor, Tensor] | None,
    norms: tuple[Tensor, Tensor] | None,
    epsilon: float,
    query_dtype: torch.dtype,
    device: Device,
) -> Tensor:
    """Normalise and turn the heads of `together`, [tokens, (heads + 2 kv_heads) x head_length], and put keys and values
    into their places. Gives the queries, [tokens, heads, head_length].

    Args:
        keys: [slots, kv_heads, length, head_length], contiguous, of any float type, as are the values.
        slots: int32 [tokens]; below 0 where nothing is to be stored.
        positions: int32 [tokens], 0 or more.
        tables: cosines and sines, float32 [positions, turning / 2]. Element i of a head turns with element i + turning
            / 2; those from `turning` on stay.
        norms: weights of the norms of each query and each key head, float32 [head_length].
    """
    tokens, (_, kv_heads, capacity, length) = len(together), keys.shape
    heads = together.shape[1] // length - 2 * kv_heads
    query = torch.empty(tokens, heads, length, dtype=query_dtype, device=together.device)
    cos, sin = (None, None) if tables is None else tables
    query_norm, key_norm = (None, None) if norms is None else norms
    constants, warps = _placing(heads, kv_heads, length, 0 if cos is None else cos.shape[1], device)
    placing.place_heads[(tokens, triton.cdiv(heads + 2 * kv_heads, constants["BLOCK"]))](
        together, query, keys, values, slots, positions, cos, sin, query_norm, key_norm,
        epsilon, capacity, **constants, STRIDE=together.stride(0), **options(warps),
    )  # fmt: skip
    return query


# How work is cut into programs ----------------------------------------------------------------------------------------


def _row_blocks(length: int, device: Device) -> tuple[dict[str, int], int]:
    """A row is one block: 16 elements a lane, up to 16 warps."""
    padded = triton.next_power_of_2(length)
    return {"LENGTH": length, "PADDED": padded}, max(1, min(16, padded // (16 * device.wave)))


def _gate_block(length: int, device: Device) -> tuple[int, int]:
    padded = triton.next_power_of_2(length)
    return min(padded, 65536 if device.interpreted else 1024), 4


def _placing(heads: int, kv_heads: int, length: int, half: int, device: Device) -> tuple[dict[str, int], int]:
    padded = triton.next_power_of_2(length)
    # One warp, eight elements a lane; as many heads whatever the number of tokens, so that bits do not hang on it.
    block = max(1, 8 * device.wave // padded)
    if device.interpreted:
        block = triton.next_power_of_2(heads + 2 * kv_heads)
    return {
        "HEADS": heads, "KV_HEADS": kv_heads, "LENGTH": length,
        "HALF": half, "HALF_PADDED": triton.next_power_of_2(max(half, 1)),
        "REST_PADDED": triton.next_power_of_2(max(length - 2 * half, 1)), "BLOCK": block,
    }, 1  # fmt: skip


def specimens(wave: int) -> Iterator[Specimen]:
    """Variants that real models need."""
    device = Device(torch.device("cuda"), wave, units=256)
    for length in (576, 640, 2048, 2880, 4096, 16384):
        constants, warps = _row_blocks(length, device)
        arguments = {"rows": "*fp32", "weight": "*fp32", "out": "*fp32"}
        yield Specimen(
            name=f"rms_norm {length}", kernel=norm.rms_norm, arguments={**arguments, "epsilon": "fp32"},
            constants={**constants, "STRIDE": length, "OUT_STRIDE": length}, warps=warps,
        )  # fmt: skip
        arguments = {"stream": "*fp32", "rows": "*fp32", "weight": "*fp32"}
        yield Specimen(
            name=f"add_normed {length}", kernel=norm.add_normed,
            arguments={**arguments, "epsilon": "fp32", "scale": "fp32"},
            constants={**constants, "STRIDE": length, "ROWS_STRIDE": length}, warps=warps,
        )  # fmt: skip
    for half in ("fp16", "bf16"):  # of many rows
        constants, warps = _row_blocks(4096, device)
        yield Specimen(
            name=f"rms_norm 4096 to {half}", kernel=norm.rms_norm,
            arguments={"rows": "*fp32", "weight": "*fp32", "out": f"*{half}", "epsilon": "fp32"},
            constants={**constants, "STRIDE": 4096, "OUT_STRIDE": 4096}, warps=warps,
        )  # fmt: skip
    block, warps = _gate_block(14336, device)
    for name, activation in _ACTIVATIONS.items():
        for out in ("fp32", "fp16", "bf16"):
            yield Specimen(
                name=f"gate {name}{'' if out == 'fp32' else f' to {out}'}", kernel=gates.gate,
                arguments={"gate_up": "*fp32", "out": f"*{out}"},
                constants={"activation": activation, "LENGTH": 14336, "STRIDE": 2 * 14336, "BLOCK": block},
                warps=warps,
            )  # fmt: skip
    yield from _placing_specimens(device)


def _placing_specimens(device: Device) -> Iterator[Specimen]:
    shapes = {
        "Llama-3 8B": (32, 8, 128, 64, False, "fp16"),
        "Qwen3 30B-A3B": (32, 4, 128, 64, True, "bf16"),
        "SmolLM2": (9, 3, 64, 32, False, "fp16"),
        "SmolLM2, float32": (9, 3, 64, 32, False, "fp32"),
        "Gemma 3": (4, 1, 256, 128, True, "bf16"),
        "Gemma 2": (8, 4, 256, 128, False, "bf16"),
        "Phi-2": (32, 32, 80, 16, False, "fp16"),
        "no rope": (9, 3, 64, 0, False, "fp16"),
    }
    for model, (heads, kv_heads, length, half, with_norms, kv) in shapes.items():
        constants, warps = _placing(heads, kv_heads, length, half, device)
        pointers = {"cos": "*fp32", "sin": "*fp32"} if half else {}
        if with_norms:
            pointers |= {"query_norm": "*fp32", "key_norm": "*fp32"}
        absent = {name: None for name in ("cos", "sin", "query_norm", "key_norm") if name not in pointers}
        for many, large in ((False, False), (True, False), (True, True)):
            query = kv if many else "fp32"
            yield Specimen(
                name=f"place_heads {model}{', many rows' if many else ''}{', 2 GiB' if large else ''}",
                kernel=placing.place_heads,
                arguments={
                    "together": "*fp32", "query": f"*{query}", "keys": f"*{kv}", "values": f"*{kv}", "slots": "*i32",
                    "positions": "*i32", **pointers, "epsilon": "fp32", "capacity": "i32",
                },
                constants={**constants, **absent, "STRIDE": (heads + 2 * kv_heads) * length},
                warps=warps,
                large=frozenset({"keys", "values"}) if large else frozenset(),
            )  # fmt: skip
