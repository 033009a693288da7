"""Calls into the C library, with tensors."""

from __future__ import annotations

import ctypes
import functools

import torch
from torch import Tensor

from inference.gguf.architectures import Activation

__all__ = ["Kernels", "Layer"]

_ACTIVATIONS: dict[Activation, int] = {"silu": 0, "gelu": 1, "clamped_swiglu": 2}
"""As in elements.c."""

_Address = ctypes.c_void_p
_Integer = ctypes.c_int64
_Float = ctypes.c_float


class Layer(ctypes.Structure):
    """`Linear` of linear.c."""

    _fields_ = [
        *((name, _Address) for name in ("codes", "scales", "offsets", "bias")),
        ("table", ctypes.c_uint8 * 16),
        *((name, _Integer) for name in ("outputs", "inputs", "bits", "group", "has_table", "zero")),
        *((name, _Float) for name in ("scale_unit", "offset_unit")),
    ]

    @functools.cached_property
    def address(self) -> int:
        return ctypes.addressof(self)


class _Attention(ctypes.Structure):
    """`Attention` of attention.c."""

    _fields_ = [
        *((name, _Address) for name in ("query", "keys", "values", "out", "slots", "positions", "sinks")),
        *((name, _Integer) for name in ("tokens", "heads", "kv_heads", "capacity", "length", "window")),
        *((name, _Float) for name in ("scale", "softcap")),
    ]


class Kernels:
    """The kernels on some threads. Tensors are contiguous and float32 unless said otherwise."""

    def __init__(self, library: ctypes.CDLL, threads: int) -> None:
        self._library = library
        self._threads = threads

    def linear(self, layer: Layer, rows: Tensor, out: Tensor, *, add: bool = False) -> None:
        """`out`, [n, outputs], becomes, or with `add` grows by, `rows`, [n, inputs], through a layer."""
        count = rows.shape[0]
        if not self._library.linear(layer.address, rows.data_ptr(), out.data_ptr(), count, add, self._threads):
            raise MemoryError(f"there is none for {count} rows of activations")

    def bfloat16_linear(
        self, weight: Tensor, bias: Tensor | None, rows: Tensor, out: Tensor, *, add: bool = False
    ) -> None:
        """The same for a weight in bfloat16, [tiles, inputs / 2, 32 outputs, 2]."""
        (count, inputs), outputs = rows.shape, out.shape[1]
        if not self._library.bfloat16_linear(
            weight.data_ptr(), None if bias is None else bias.data_ptr(), rows.data_ptr(), out.data_ptr(),
            outputs, inputs, count, add, self._threads,
        ):  # fmt: skip
            raise MemoryError(f"there is none for {count} rows of activations")

    def pack(self, codes: Tensor, stored: Tensor, out: Tensor, bits: int, group: int) -> None:
        """Lay codes, int8 [outputs, inputs], out in tiles. `stored`: uint8 [256], what is stored for each code taken
        as a byte. `out`: uint8, as long as whole tiles of 32 outputs are."""
        rows, inputs = codes.shape
        self._library.pack(
            codes.data_ptr(), stored.data_ptr(), out.data_ptr(), rows, inputs, bits, group, self._threads
        )

    def rms_norm(self, rows: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        out = torch.empty_like(rows)
        self._library.rms_norm(rows.data_ptr(), weight.data_ptr(), out.data_ptr(), *rows.shape, epsilon, self._threads)
        return out

    def argmax(self, rows: Tensor) -> Tensor:
        """Where the greatest value of each row lies: int64 [n]. It is that of a NaN if there is one."""
        out = torch.empty(rows.shape[0], dtype=torch.int64)
        self._library.argmax(rows.data_ptr(), out.data_ptr(), *rows.shape, self._threads)
        return out

    def gate(self, gate_up: Tensor, activation: Activation) -> Tensor:
        """activation(gate) x up of rows that hold all gates and then all ups."""
        rows, length = gate_up.shape[0], gate_up.shape[1] // 2
        out = torch.empty(rows, length)
        kind = _ACTIVATIONS[activation]
        self._library.gate(gate_up.data_ptr(), out.data_ptr(), rows, length, kind, self._threads)
        return out

    def place_heads(
        self,
        together: Tensor,
        keys: Tensor,
        values: Tensor,
        slots: Tensor,
        positions: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
        norms: tuple[Tensor, Tensor] | None,
        epsilon: float,
    ) -> Tensor:
        """Normalise and turn the heads of `together`, [tokens, (heads + 2 kv_heads) x head_length], and put keys and
        values into their places, bfloat16 [slots, kv_heads, length, head_length]. Gives queries, [tokens, heads,
        head_length]. `slots`, `positions`: int64 [tokens]; `rotary`: cosines and sines, [positions, turning / 2]."""
        tokens, (_, kv_heads, capacity, length) = len(together), keys.shape
        heads = together.shape[1] // length - 2 * kv_heads
        query = torch.empty(tokens, heads, length)
        cos, sin = (table.data_ptr() for table in rotary) if rotary is not None else (None, None)
        query_norm, key_norm = (norm.data_ptr() for norm in norms) if norms is not None else (None, None)
        self._library.place_heads(
            together.data_ptr(), query.data_ptr(), keys.data_ptr(), values.data_ptr(),
            slots.data_ptr(), positions.data_ptr(), cos, sin, query_norm, key_norm, epsilon,
            tokens, heads, kv_heads, capacity, length, 2 * rotary[0].shape[1] if rotary is not None else 0,
            self._threads,
        )  # fmt: skip
        return query

    def attend(
        self,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        slots: Tensor,
        positions: Tensor,
        out: Tensor,
        *,
        singles_see: int | None,
        scale: float,
        softcap: float | None,
        window: int | None,
        sinks: Tensor | None,
    ) -> None:
        """Attention of `query`, [tokens, heads, head_length], to `out`, [tokens, heads x head_length].

        Each token goes over its slot's keys by itself, where `singles_see` is the most positions that one of them sees;
        or, where that is None, they follow one another in one slot, and go together.
        """
        (tokens, heads, length), (_, kv_heads, capacity, _) = query.shape, keys.shape
        if window is None or window >= capacity:
            window = 0
        job = _Attention(
            query.data_ptr(), keys.data_ptr(), values.data_ptr(), out.data_ptr(), slots.data_ptr(),
            positions.data_ptr(), None if sinks is None else sinks.data_ptr(),
            tokens, heads, kv_heads, capacity, length, window, scale, softcap or 0.0,
        )  # fmt: skip
        address = ctypes.addressof(job)
        if singles_see is not None:
            done = self._library.attend_singles(address, singles_see, self._threads)
        else:
            done = self._library.attend_span(address, self._threads)
        if not done:
            raise MemoryError(f"there is none for the attention of {tokens} tokens")
