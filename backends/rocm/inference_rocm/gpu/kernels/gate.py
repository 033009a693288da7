"""Activation functions of feed-forward networks."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def silu(gate, up):
    return gate / (1.0 + tl.exp(-gate)) * up


@triton.jit
def gelu(gate, up):
    """By tanh: (1 + tanh(x)) / 2 = 1 / (1 + exp(-2 x)), which is right for any size of x."""
    x = 0.7978845608028654 * (gate + 0.044715 * gate * gate * gate)
    return gate / (1.0 + tl.exp(-2.0 * x)) * up


@triton.jit
def clamped_swiglu(gate, up):
    # What is no number stays so: both comparisons are false for it.
    gate = tl.where(gate > 7.0, 7.0, gate)
    up = tl.where(up > 7.0, 7.0, tl.where(up < -7.0, -7.0, up))
    return gate / (1.0 + tl.exp(-1.702 * gate)) * (up + 1.0)


@triton.jit
def gate(
    gate_up, out, activation: tl.constexpr, LENGTH: tl.constexpr, STRIDE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """A block of one row, which holds all gates and then all ups."""
    row = tl.program_id(0).to(tl.int64)
    element = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = element < LENGTH
    gates = gate_up + row * STRIDE
    ups = gates + LENGTH
    gated = tl.load(gates + element, mask=there, other=0.0).to(tl.float32)
    upped = tl.load(ups + element, mask=there, other=0.0).to(tl.float32)
    tl.store(out + row * LENGTH + element, activation(gated, upped).to(out.dtype.element_ty), mask=there)
