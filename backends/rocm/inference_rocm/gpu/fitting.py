"""What a file takes on a GPU. Importing this imports nothing heavy."""

from __future__ import annotations

from inference.engine.fitting import MOST_SLOTS, Demand, bad_number
from inference.gguf.architectures import config_of
from inference.gguf.half_types import half_type
from inference.gguf.reader import Header
from inference.gguf.unsupported import require_block_formats
from inference.options import LoadOptions
from inference_rocm.gpu.forms import bytes_per_weight
from inference_rocm.gpu.workspace import bytes_per_position, workspace_bytes

__all__ = ["batch_size_of", "gpu_demand"]

MAX_SLOTS = 256
BATCH_SIZE = 2048
"""Tokens in one pass by default."""


def batch_size_of(options: LoadOptions, slots: int) -> int:
    """Tokens in one pass."""
    return options.batch_size or max(BATCH_SIZE, slots)


def gpu_demand(header: Header, options: LoadOptions, memory: int) -> Demand:
    """What a GGUF file takes. `memory` is what is free on the GPU in bytes, 0 for unknown.

    Raises:
        UnsupportedModelError: its architecture or its block formats are none that is known.
        OptionValueError, ContextTooLargeError, InsufficientMemoryError: it cannot be had with these options.
    """
    config = config_of(header)
    require_block_formats(header)
    slots = options.parallel or MOST_SLOTS
    kv_bytes = header.kv_bytes_per_token("f32" if half_type(header) == "float32" else "f16")
    # While KV memory grows, one layer's is there twice.
    growing = kv_bytes // len(config.layers)
    demand = Demand(
        name=header.path.name,
        train_context_length=header.train_context_length,
        weight_bytes=sum(round(each.elements * bytes_per_weight(each.type)) for each in header.tensors.values()),
        kv_bytes_per_token=kv_bytes + growing + bytes_per_position(config),
        free_bytes=memory,
        headroom=workspace_bytes(header, config, slots=slots, batch_size=batch_size_of(options, slots)),
    )
    error = bad_number(options, "PyTorch", MAX_SLOTS) or demand.refusal(options)
    if error is not None:
        raise error
    return demand
