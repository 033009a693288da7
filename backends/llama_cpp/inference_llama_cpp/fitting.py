"""What of a wish can be had: options that make sense on the device, and a context and slots that memory holds."""

from __future__ import annotations

from inference.engine.fitting import Demand, bad_number
from inference.errors import CorruptFileError, InferenceError, UnsupportedOptionError
from inference.gguf.reader import Header
from inference.options import LoadOptions

__all__ = ["fit", "is_described", "refusal"]

MAX_SLOTS = 256
"""LLAMA_MAX_SEQ of llama.cpp."""
HEADROOM = 128 * 2**20
"""Bytes left for the compute graph's buffers."""
GPU_OPTIONS = ("main_gpu", "tensor_split", "cpu_expert_layers")


class _Demand(Demand):
    def sequences(self, slots: int) -> int:
        """Contexts of 1, 2, 4, ... slots and one of all, till the small ones ended."""
        return slots + (1 << (slots - 1).bit_length()) - 1


def is_described(header: Header) -> bool:
    """Whether the file has the keys of its own architecture. llama.cpp says better than we what is wrong without."""
    return all(header.architecture_key(key) in header.metadata for key in ("block_count", "context_length"))


def refusal(header: Header, options: LoadOptions, device: str, memory: int) -> InferenceError | None:
    """Why this file cannot be loaded with these options, or None. `memory` is what is free in bytes, 0 for unknown."""
    error = bad_number(options, "llama.cpp", MAX_SLOTS) or _idle_option(options, device)
    if error is not None or not is_described(header):
        return error
    if header.train_context_length == 0 and not options.context_length:
        key = header.architecture_key("context_length")
        return CorruptFileError(f"{header.path}: `{key}` is 0. Load it with a `context_length` of your own.")
    return _demand(header, options, memory).refusal(options)


def fit(header: Header, options: LoadOptions, memory: int) -> tuple[int, int]:
    """Tokens for each slot, and how many slots there may be, where `refusal` has nothing to say."""
    return _demand(header, options, memory).fit(options)


def _demand(header: Header, options: LoadOptions, memory: int) -> Demand:
    return _Demand(
        name=header.path.name,
        train_context_length=header.train_context_length,
        weight_bytes=header.size_bytes,
        kv_bytes_per_token=header.kv_bytes_per_token(options.kv_cache_type),
        free_bytes=memory,
        headroom=HEADROOM,
        advice='Lower `context_length` or `parallel`, or set `kv_cache_type` to "q8_0".',
    )


def _idle_option(options: LoadOptions, device: str) -> UnsupportedOptionError | None:
    if device != "cpu":
        return None
    idle = [f"`{name}`" for name in GPU_OPTIONS if name in options.changed()]
    idle += ["`gpu_layers`"] if options.gpu_layers > 0 else []
    if not idle:
        return None
    return UnsupportedOptionError(f"{', '.join(idle)} would have no effect: llama.cpp runs on the CPU here.")
