"""What of a wish can be had: a model that the decoder knows, and a context and slots that memory holds."""

from __future__ import annotations

import logging

from inference.errors import (
    ContextTooLargeError,
    InferenceError,
    InsufficientMemoryError,
    OptionValueError,
    UnsupportedModelError,
)
from inference.gguf.architectures import config_of
from inference.gguf.reader import Header
from inference.hardware import physical_cores
from inference.options import LoadOptions
from inference_rocm.arithmetic import Arithmetic

__all__ = ["fit", "refusal"]

MOST_SLOTS = 32
"""Most sequences at once by default."""
MAX_SLOTS = 1024
MAX_BATCH = 2**16
HEADROOM = 256 * 2**20
"""Bytes left for activations, and for what is unpacked while loading."""
CONTEXT_STEP = 256
"""A context that memory cuts is a multiple of this many tokens."""
_THREADS_PER_CORE = 4

_log = logging.getLogger(__name__)


def refusal(header: Header, options: LoadOptions, arithmetic: Arithmetic, memory: int) -> InferenceError | None:
    """Why this file cannot be loaded with these options, or None. `memory` is what is free in bytes, 0 for unknown."""
    from inference.gguf.weights import require_block_formats  # late: it imports numpy

    error = _bad_option(options)
    if error is not None:
        return error
    try:
        config_of(header)
        require_block_formats(header)
    except UnsupportedModelError as unsupported:
        return unsupported
    if not memory:
        return None
    weights = arithmetic.weight_bytes(header)
    room = memory - weights - HEADROOM
    if room < 0:
        return InsufficientMemoryError(
            f"{header.path.name} needs {_gib(weights)} for its weights, and {_gib(memory)} are free. "
            "Close other programs, or take a file with fewer bits per weight."
        )
    per_token = arithmetic.kv_bytes_per_token(header)
    length = options.context_length or min(header.train_context_length, CONTEXT_STEP)
    wanted = length * (options.parallel or 1)
    if wanted * per_token > room:
        return ContextTooLargeError(
            f"{options.parallel or 1} x {length} tokens of context need {_gib(wanted * per_token)} of KV memory beside "
            f"the weights, and {_gib(room)} are free: {room // per_token} tokens fit. Lower `context_length` or "
            "`parallel`."
        )
    return None


def fit(header: Header, options: LoadOptions, arithmetic: Arithmetic, memory: int) -> tuple[int, int]:
    """Tokens for each slot, and how many slots there may be, where `refusal` has nothing to say."""
    per_token = max(arithmetic.kv_bytes_per_token(header), 1)
    room = (memory - arithmetic.weight_bytes(header) - HEADROOM) // per_token if memory else None
    trained = header.train_context_length
    length = options.context_length or trained
    if room is not None and not options.context_length and length > room // (options.parallel or 1):
        length = max(room // (options.parallel or 1) // CONTEXT_STEP, 1) * CONTEXT_STEP
        _log.warning(
            "%s: the context is cut to %d tokens of %d, which memory allows", header.path.name, length, trained
        )
    if length > trained > 0:
        _log.warning("%s: a context of %d tokens is longer than the trained %d", header.path.name, length, trained)
    if options.parallel:
        return length, options.parallel
    return length, MOST_SLOTS if room is None else max(1, min(MOST_SLOTS, room // length))


def _bad_option(options: LoadOptions) -> InferenceError | None:
    most = _THREADS_PER_CORE * physical_cores()
    for name, value, limit in (
        ("threads", options.threads, most),
        ("parallel", options.parallel, MAX_SLOTS),
        ("batch_size", options.batch_size, MAX_BATCH),
    ):
        if value > limit:
            return OptionValueError(f"`{name}` must be at most {limit} for PyTorch on this machine, got {value}.")
    if 0 < options.batch_size < options.parallel:
        return OptionValueError(
            f"`batch_size` must be at least `parallel`: a step takes a token of each sequence. "
            f"Got {options.batch_size} and {options.parallel}."
        )
    return None


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
