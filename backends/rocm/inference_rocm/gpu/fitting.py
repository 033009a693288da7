"""What a file takes on a GPU. Importing this imports nothing heavy."""

from __future__ import annotations

from inference.engine.fitting import Demand, bad_number
from inference.gguf.architectures import config_of
from inference.gguf.half_types import half_type
from inference.gguf.reader import Header
from inference.options import LoadOptions
from inference_rocm.gpu.forms import bytes_per_weight

__all__ = ["gpu_demand"]

MAX_SLOTS = 256
HEADROOM = 512 * 2**20
"""Bytes left for activations, logits, captured passes and libraries' workspaces."""


def gpu_demand(header: Header, options: LoadOptions, memory: int) -> Demand:
    """What a GGUF file takes. `memory` is what is free on the GPU in bytes, 0 for unknown.

    Raises:
        UnsupportedModelError: its architecture or its block formats are none that is known.
        OptionValueError, ContextTooLargeError, InsufficientMemoryError: it cannot be had with these options.
    """
    from inference.gguf.weights import require_block_formats  # late: it imports numpy

    config_of(header)
    require_block_formats(header)
    demand = Demand(
        name=header.path.name,
        train_context_length=header.train_context_length,
        weight_bytes=sum(round(each.elements * bytes_per_weight(each.type)) for each in header.tensors.values()),
        kv_bytes_per_token=header.kv_bytes_per_token("f32" if half_type(header) == "float32" else "f16"),
        free_bytes=memory,
        headroom=HEADROOM,
    )
    error = bad_number(options, "PyTorch", MAX_SLOTS) or demand.refusal(options)
    if error is not None:
        raise error
    return demand
