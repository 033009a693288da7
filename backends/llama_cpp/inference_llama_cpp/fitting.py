"""What of a wish can be had: options that make sense on the device, and a context and slots that memory holds."""

from __future__ import annotations

import logging

from inference.errors import (
    ContextTooLargeError,
    CorruptFileError,
    InferenceError,
    InsufficientMemoryError,
    OptionValueError,
    UnsupportedOptionError,
)
from inference.gguf.reader import Header
from inference.hardware import physical_cores
from inference.options import LoadOptions

__all__ = ["fit", "is_described", "refusal"]

MOST_SLOTS = 32
"""Most sequences at once by default."""
MAX_SLOTS = 256
"""LLAMA_MAX_SEQ of llama.cpp."""
MAX_BATCH = 2**16
THREADS_PER_CORE = 4
"""More threads than this for each core only wait for each other; thousands end the process."""
HEADROOM = 128 * 2**20
"""Bytes left for the compute graph's buffers."""
CONTEXT_STEP = 256
"""A context that memory cuts is a multiple of this many tokens."""
GPU_OPTIONS = ("main_gpu", "tensor_split", "cpu_expert_layers")

_log = logging.getLogger(__name__)


def is_described(header: Header) -> bool:
    """Whether the file has the keys of its own architecture. llama.cpp says better than we what is wrong without."""
    return all(header.architecture_key(key) in header.metadata for key in ("block_count", "context_length"))


def refusal(header: Header, options: LoadOptions, device: str, memory: int) -> InferenceError | None:
    """Why this file cannot be loaded with these options, or None. `memory` is what is free in bytes, 0 for unknown."""
    error = _bad_option(options, device)
    if error is not None or not is_described(header):
        return error
    if header.train_context_length == 0 and not options.context_length:
        key = header.architecture_key("context_length")
        return CorruptFileError(f"{header.path}: `{key}` is 0. Load it with a `context_length` of your own.")
    if not memory:
        return None
    room = memory - header.size_bytes - HEADROOM
    if room < 0:
        return InsufficientMemoryError(
            f"{header.path.name} needs {_gib(header.size_bytes)} for its weights, and {_gib(memory)} are free. "
            f"Close other programs, or take a file with fewer bits per weight."
        )
    per_token = header.kv_bytes_per_token(options.kv_cache_type)
    length = options.context_length or min(header.train_context_length, CONTEXT_STEP)
    streams = _streams(options.parallel or 1)
    if length * streams * per_token > room:
        return ContextTooLargeError(
            f"{options.parallel or 1} x {length} tokens of context need {_gib(length * streams * per_token)} of KV "
            f"memory beside the weights, and {_gib(room)} are free: {room // (per_token * streams)} tokens fit. Lower "
            f'`context_length` or `parallel`, or set `kv_cache_type` to "q8_0".'
        )
    return None


def fit(header: Header, options: LoadOptions, memory: int) -> tuple[int, int]:
    """Tokens for each slot, and how many slots there may be, where `refusal` has nothing to say."""
    per_token = max(header.kv_bytes_per_token(options.kv_cache_type), 1)
    room = (memory - header.size_bytes - HEADROOM) // per_token if memory else None
    length = options.context_length or header.train_context_length
    if room is not None and not options.context_length:
        most = room // _streams(options.parallel or 1)
        if length > most:
            length = max(most // CONTEXT_STEP, 1) * CONTEXT_STEP
            _warn(header, "the context is cut to %d tokens of %d, which is what memory allows", length)
    if length > header.train_context_length > 0:
        _warn(header, "a context of %d tokens is longer than the %d that the model was trained for", length)
    if options.parallel:
        return length, options.parallel
    fitting = (slots for slots in range(MOST_SLOTS, 0, -1) if room is None or _streams(slots) * length <= room)
    return length, next(fitting, 1)


def _streams(slots: int) -> int:
    """How many sequences' KV memory there may be at once: contexts of 1, 2, 4, ... slots and one of all, till the small
    ones ended."""
    return slots + (1 << (slots - 1).bit_length()) - 1


def _bad_option(options: LoadOptions, device: str) -> InferenceError | None:
    most = THREADS_PER_CORE * physical_cores()
    for name, value, limit in (
        ("threads", options.threads, most),
        ("parallel", options.parallel, MAX_SLOTS),
        ("batch_size", options.batch_size, MAX_BATCH),
    ):
        if value > limit:
            return OptionValueError(f"`{name}` must be at most {limit} for llama.cpp on this machine, got {value}.")
    if 0 < options.batch_size < options.parallel:
        return OptionValueError(
            f"`batch_size` must be at least `parallel`: a step takes a token of each sequence. "
            f"Got {options.batch_size} and {options.parallel}."
        )
    if device == "cpu":
        idle = [f"`{name}`" for name in GPU_OPTIONS if name in options.changed()]
        idle += ["`gpu_layers`"] if options.gpu_layers > 0 else []
        if idle:
            return UnsupportedOptionError(f"{', '.join(idle)} would have no effect: llama.cpp runs on the CPU here.")
    return None


def _warn(header: Header, message: str, length: int) -> None:
    _log.warning(f"%s: {message}", header.path.name, length, header.train_context_length)


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
