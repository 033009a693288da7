"""What of a wish can be had: a model that the decoder knows, and a context and slots that memory holds."""

from __future__ import annotations

from inference.engine.fitting import Demand, bad_number
from inference.errors import InferenceError, UnsupportedModelError
from inference.gguf.architectures import config_of
from inference.gguf.reader import Header
from inference.gguf.unsupported import require_block_formats
from inference.options import LoadOptions
from inference_rocm.arithmetic import Arithmetic

__all__ = ["fit", "refusal"]

MAX_SLOTS = 1024
HEADROOM = 256 * 2**20
"""Bytes left for activations, and for what is unpacked while loading."""


def refusal(header: Header, options: LoadOptions, arithmetic: Arithmetic, memory: int) -> InferenceError | None:
    """Why this file cannot be loaded with these options, or None. `memory` is what is free in bytes, 0 for unknown."""
    error = bad_number(options, "PyTorch", MAX_SLOTS)
    if error is not None:
        return error
    try:
        config_of(header)
        require_block_formats(header)
    except UnsupportedModelError as unsupported:
        return unsupported
    return _demand(header, arithmetic, memory).refusal(options)


def fit(header: Header, options: LoadOptions, arithmetic: Arithmetic, memory: int) -> tuple[int, int]:
    """Tokens for each slot, and how many slots there may be, where `refusal` has nothing to say."""
    return _demand(header, arithmetic, memory).fit(options)


def _demand(header: Header, arithmetic: Arithmetic, memory: int) -> Demand:
    return Demand(
        name=header.path.name,
        train_context_length=header.train_context_length,
        weight_bytes=arithmetic.weight_bytes(header),
        kv_bytes_per_token=arithmetic.kv_bytes_per_token(header),
        free_bytes=memory,
        headroom=HEADROOM,
    )
