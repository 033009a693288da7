"""The tokens of one step, in the arrays that `llama_decode` reads."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

from inference_llama_cpp.library import bindings

__all__ = ["Batch"]


class Batch:
    """A `llama_batch` over arrays of our own, filled anew for each step."""

    def __init__(self, size: int, slots: int) -> None:
        self._tokens = (ctypes.c_int32 * size)()
        self._positions = (ctypes.c_int32 * size)()
        self._outputs = (ctypes.c_int8 * size)()
        one = (ctypes.c_int32 * size)(*[1] * size)
        # llama.cpp reads the sequences of a token through a pointer: one cell for each slot serves all its tokens.
        self._cells = (ctypes.c_int32 * slots)(*range(slots))
        first, width = ctypes.addressof(self._cells), ctypes.sizeof(ctypes.c_int32)
        self._cell_of = [first + slot * width for slot in range(slots)]
        self._sequences = (ctypes.c_void_p * size)()
        integers = ctypes.POINTER(ctypes.c_int32)
        self.struct: Any = bindings.llama_batch(
            n_tokens=0,
            token=ctypes.cast(self._tokens, integers),
            embd=None,
            pos=ctypes.cast(self._positions, integers),
            n_seq_id=ctypes.cast(one, integers),
            seq_id=ctypes.cast(self._sequences, ctypes.POINTER(integers)),
            logits=ctypes.cast(self._outputs, ctypes.POINTER(ctypes.c_int8)),
        )
        self._length = 0

    def clear(self) -> None:
        """Begin a new step."""
        self._length = 0

    def add_token(self, slot: int, token: int, position: int) -> int:
        """Append one token, with an output; returns its index in the batch."""
        index = self._length
        self._tokens[index] = token
        self._positions[index] = position
        self._sequences[index] = self._cell_of[slot]
        self._outputs[index] = 1
        self.struct.n_tokens = self._length = index + 1
        return index

    def add_tokens(self, slot: int, tokens: Sequence[int], position: int, *, output: bool) -> int:
        """Append tokens from `position` on, with an output for the last if asked; returns the last one's index."""
        count, begin = len(tokens), self._length
        end = begin + count
        self._tokens[begin:end] = list(tokens)
        self._positions[begin:end] = list(range(position, position + count))
        self._sequences[begin:end] = [self._cell_of[slot]] * count
        self._outputs[begin:end] = [0] * count
        self._outputs[end - 1] = output
        self.struct.n_tokens = self._length = end
        return end - 1
