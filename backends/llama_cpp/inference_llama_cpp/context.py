"""A llama.cpp context: the KV memory of all slots, and the compute graph's buffers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from inference.errors import ContextTooLargeError, InsufficientMemoryError, LoadError
from inference.gguf.block_formats import BLOCK_FORMATS
from inference.hardware import available_memory
from inference.options import LoadOptions
from inference_llama_cpp.devices import ggml_name
from inference_llama_cpp.library import bindings, last_errors

__all__ = ["ContextSettings", "make_context"]

_KV_TYPES = {entry.name.lower(): entry.id for entry in BLOCK_FORMATS.values()}
_FLASH_ATTENTION = {
    None: bindings.LLAMA_FLASH_ATTN_TYPE_AUTO,
    True: bindings.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    False: bindings.LLAMA_FLASH_ATTN_TYPE_DISABLED,
}
_PADDING = 256
"""llama.cpp rounds each sequence's share of the context up to this, and warns if it has to."""


@dataclass(frozen=True, slots=True)
class ContextSettings:
    """What every context of a model has in common, whatever the number of its slots."""

    context_length: int
    batch_size: int
    threads: int
    options: LoadOptions
    kv_bytes_per_token: int = 0
    checks_memory: bool = False
    """Whether the KV memory is main memory, of which the system tells what is free."""

    def kv_bytes(self, slots: int, length: int) -> int:
        """What the KV memory of so many slots takes."""
        return slots * _padded(length) * self.kv_bytes_per_token

    def require_memory(self, slots: int, length: int) -> None:
        """Refuse a context before it is allocated: a system that overcommits would end the process instead.

        Raises:
            InsufficientMemoryError: its KV memory is larger than what is free.
        """
        needed = self.kv_bytes(slots, length)
        free = available_memory() if self.checks_memory else None
        if free is not None and needed > free:
            raise InsufficientMemoryError(
                f"{slots} x {length} tokens of context need {needed:,} bytes of KV memory, and {free:,} are free."
            )


def make_context(model: Any, settings: ContextSettings, slots: int, length: int) -> Any:
    """A context of `slots` sequences with a KV stream of `length` tokens each, to be freed with `llama_free`.

    Not unified: one stream for all would cost a third of the batched decode rate.

    Raises:
        ContextTooLargeError: there is no memory for it.
        LoadError: llama.cpp refuses the settings.
    """
    options = settings.options
    parameters = bindings.llama_context_default_params()
    parameters.n_ctx = _padded(length) * slots
    parameters.n_seq_max = slots
    parameters.kv_unified = False
    parameters.n_batch = parameters.n_ubatch = settings.batch_size
    parameters.n_outputs_max = slots  # the output head's buffers: one row a sequence, not one a token
    parameters.n_threads = parameters.n_threads_batch = settings.threads
    parameters.type_k = parameters.type_v = _KV_TYPES[options.kv_cache_type]
    parameters.flash_attn_type = _FLASH_ATTENTION[options.flash_attention]
    parameters.no_perf = True
    if options.device is not None and ggml_name(options.device) is None:
        parameters.offload_kqv = parameters.op_offload = False
    last_errors()
    context = bindings.llama_init_from_model(model, parameters)
    if context:
        return context
    words = " / ".join(last_errors()) or "it does not say why."
    if "alloc" in words or "memory" in words:
        raise ContextTooLargeError(
            f"No memory for {slots} x {length} tokens of context: {words} "
            f"Load with a smaller `context_length` or `parallel`."
        )
    raise LoadError(f"llama.cpp cannot make a context: {words}")


def _padded(length: int) -> int:
    return -(-length // _PADDING) * _PADDING
