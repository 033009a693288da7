"""What lies between the layers: the GPU's kernels for it on any device, beside PyTorch's own operations in float64."""

from __future__ import annotations

from typing import Any

import torch
from inference_rocm.gpu.device import Device
from inference_rocm.gpu.elements import add_normed, gate, place_heads, rms_norm
from kernel_definitions import turned
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from inference.gguf.architectures import Activation

__all__ = [
    "CAPACITY",
    "NAN",
    "TYPES",
    "activated",
    "require_added",
    "require_close",
    "require_gated",
    "require_normed",
    "require_placed",
]

NAN = float("nan")
CAPACITY = 20
"""Positions of a slot."""
TYPES = [torch.float32, torch.float16, torch.bfloat16]
ROUNDING: dict[Any, float] = {torch.float32: 1e-6, torch.float16: 2**-11, torch.bfloat16: 2**-7}
"""Of a number that is written. The interpreter cuts off to bfloat16, where a GPU rounds."""


def require_close(found: Tensor, wanted: Tensor, tolerance: float = 2e-6) -> None:
    torch.testing.assert_close(found.double().cpu(), wanted.double(), rtol=tolerance, atol=tolerance)


def require_normed(count: int, length: int, given: torch.dtype, out: torch.dtype, device: Device) -> None:
    rows, weight = (torch.randn(count, length) * 3).to(given), torch.rand(length)
    wanted = F.rms_norm(rows.double(), (length,), weight.double(), 1e-5)
    found = rms_norm(rows.to(device.torch), weight.to(device.torch), 1e-5, out, device)
    assert found.dtype == out
    require_close(found, wanted, 2e-6 + ROUNDING[out])


def require_added(count: int, length: int, with_norm: bool, dtype: torch.dtype, device: Device) -> None:
    """To the residual stream."""
    stream, rows, weight = torch.randn(count, length), torch.randn(count, length).to(dtype), torch.rand(length)
    added = F.rms_norm(rows.double(), (length,), weight.double(), 1e-5) if with_norm else rows.double()
    wanted = stream.double() + 0.22 * added
    stream = stream.to(device.torch)
    add_normed(stream, rows.to(device.torch), weight.to(device.torch) if with_norm else None, 1e-5, 0.22, device)
    require_close(stream, wanted)


def activated(gates: Tensor, ups: Tensor, activation: Activation) -> Tensor:
    if activation == "silu":
        return F.silu(gates) * ups
    if activation == "gelu":
        return F.gelu(gates, approximate="tanh") * ups
    gates, ups = gates.clamp(max=7), ups.clamp(-7, 7)
    return gates * torch.sigmoid(1.702 * gates) * (ups + 1)


def require_gated(activation: Activation, count: int, length: int, dtype: torch.dtype, device: Device) -> None:
    """Of gates and ups that are a part of longer rows."""
    wide = (torch.randn(count, 2 * length + 20) * 5).to(dtype)
    gate_up = wide[:, 10:-10]
    wanted = activated(gate_up[:, :length].double(), gate_up[:, length:].double(), activation)
    found = gate(wide.to(device.torch)[:, 10:-10], activation, dtype, device)
    assert found.dtype == dtype
    require_close(found, wanted, 1e-5 + ROUNDING[dtype])


def require_placed(
    tokens: int,
    heads: int,
    kv_heads: int,
    length: int,
    turning: int,
    with_norms: bool,
    device: Device,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Heads of each token: normalised, turned, and put into their places in KV memory, where all else stays."""
    slots = 3
    together = torch.randn(tokens, (heads + 2 * kv_heads) * length).to(dtype)
    keys, values = (torch.full((slots, kv_heads, CAPACITY, length), NAN, dtype=dtype) for _ in range(2))
    order = torch.randperm(slots * CAPACITY)[:tokens]
    slot, position = order // CAPACITY, order % CAPACITY
    angles = torch.randn(CAPACITY, turning // 2)
    cos, sin = angles.cos() * 1.2, angles.sin() * 1.2
    norms = (torch.rand(length) + 0.5, torch.rand(length) + 0.5) if with_norms else None
    on_device = [part.to(device.torch) for part in (together, keys, values, slot.int(), position.int())]
    tables, weights = (
        None if pair is None else (pair[0].to(device.torch), pair[1].to(device.torch))
        for pair in ((cos, sin) if turning else None, norms)
    )
    query = place_heads(*on_device, tables, weights, 1e-5, dtype, device).cpu()
    keys, values = on_device[1].cpu(), on_device[2].cpu()
    parts = together.view(tokens, heads + 2 * kv_heads, length).split([heads, kv_heads, kv_heads], dim=1)
    wanted = [part.double() for part in parts[:2]]
    for i in range(2):
        if norms is not None:
            wanted[i] = F.rms_norm(wanted[i], (length,), norms[i].double(), 1e-5)
        wanted[i] = turned(wanted[i], cos[position].double(), sin[position].double())
    assert query.dtype == dtype
    require_close(query, wanted[0], 4e-6 + ROUNDING[dtype])
    require_close(keys[slot, :, position], wanted[1], 4e-6 + ROUNDING[dtype])
    assert torch.equal(values[slot, :, position], parts[2])
    for memory in (keys, values):
        assert memory.isfinite().sum() == tokens * kv_heads * length, "other places must stay as they are"
