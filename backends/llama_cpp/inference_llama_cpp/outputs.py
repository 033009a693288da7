"""What a pass over the weights put out: logits, read where llama.cpp keeps them."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from inference.errors import EngineError
from inference.protocols import TokenLogprobs
from inference.types import TokenLogprob
from inference_llama_cpp.library import bindings

__all__ = ["Logits", "Outputs"]

_logits_address = bindings.llama_get_logits_ith.__class__(("llama_get_logits_ith", bindings._lib))
_logits_address.argtypes = [ctypes.c_void_p, ctypes.c_int32]
_logits_address.restype = ctypes.c_void_p  # a number: a ctypes pointer costs more than the call

Logits = npt.NDArray[np.float32]
"""Shape (vocabulary,): llama.cpp's own memory, valid until the next pass of that context."""


class Outputs:
    """The logits of all contexts of a model."""

    def __init__(self, vocabulary_size: int) -> None:
        self._size = vocabulary_size
        self._views: dict[int, Logits] = {}

    def forget(self) -> None:
        """A context was freed, and its addresses with it."""
        self._views.clear()

    def logits(self, context: Any, output: int) -> Logits:
        """Those of one token of the batch."""
        address = _logits_address(context, output)
        view = self._views.get(address)
        if view is None:
            if not address:
                raise EngineError(
                    f"llama.cpp has no logits for output {output}."
                )  # making a view costs more than the search in it
            memory = (ctypes.c_float * self._size).from_address(address)
            view = self._views[address] = np.ctypeslib.as_array(memory)
        return view


def scored(logits: Logits, tokens: Sequence[int]) -> list[float]:
    """Natural log-probabilities of some tokens; NaN where the logits are not finite."""
    highest = logits.max()
    total = np.log(np.exp(logits - highest).sum(dtype=np.float64)) + highest
    scores: list[float] = (logits[list(tokens)].astype(np.float64) - total).tolist()
    return scores


def with_likeliest(logits: Logits, token: int, count: int) -> TokenLogprobs:
    """Log-probability of a token, and the `count` likeliest ones with theirs."""
    count = min(count, len(logits))
    if count == 1:
        top = np.array([logits.argmax()])
    else:
        top = np.argpartition(-logits, count - 1)[:count]
        top = top[np.lexsort((top, -logits[top]))]
    first, *rest = scored(logits, [token, *top])
    entries = zip(top.tolist(), rest, strict=True)
    return TokenLogprobs(first, tuple(TokenLogprob(entry, logprob) for entry, logprob in entries))


def copied(logits: Logits) -> array[float]:
    """The logits in memory of their own."""
    return array("f", logits.tobytes())
