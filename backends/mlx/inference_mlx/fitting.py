"""What of a wish can be had: a model that mlx-lm has layers for, and a context and slots that memory holds."""

from __future__ import annotations

from inference.engine.fitting import Demand, bad_number
from inference.errors import OptionValueError
from inference.folder import Folder
from inference.gguf.architectures import config_of
from inference.gguf.reader import Header
from inference.gguf.unsupported import require_block_formats, unsupported
from inference.options import LoadOptions
from inference_mlx.families import FAMILIES, structure_of
from inference_mlx.forms import packed_bytes
from inference_mlx.kquant import kept_formats
from inference_mlx.precision import precision_of

__all__ = ["file_demand", "folder_demand"]

MAX_SLOTS = 1024
HEADROOM = 256 * 2**20
"""Bytes left for activations, and for the tensor that is being packed while loading."""


class _Demand(Demand):
    def sequences(self, slots: int) -> int:
        """A sequence that joins others, or leaves them, is copied with them."""
        return slots if slots == 1 else 2 * slots


def file_demand(header: Header, options: LoadOptions, device: str, memory: int) -> Demand:
    """What a GGUF file takes on "metal" or "cpu". `memory` is what is free in bytes, 0 for unknown.

    Raises:
        UnsupportedModelError: its layers or its block formats are none that MLX has.
        OptionValueError, ContextTooLargeError, InsufficientMemoryError: it cannot be had with these options.
    """
    structure = structure_of(config_of(header))
    if structure not in FAMILIES:
        raise unsupported(header.path, f"a kind of layer that mlx-lm does not have: {structure}")
    require_block_formats(header)
    exact = precision_of(header, device) == "float32"
    weights = packed_bytes(header.tensors.values(), scale_bytes=4 if exact else 2, kept=kept_formats(device))
    return _required(
        _Demand(
            name=header.path.name,
            train_context_length=header.train_context_length,
            weight_bytes=weights,
            kv_bytes_per_token=header.kv_bytes_per_token("f32" if exact else "f16"),
            free_bytes=memory,
            headroom=HEADROOM,
        ),
        options,
    )


def folder_demand(folder: Folder, options: LoadOptions, device: str, memory: int) -> Demand:
    """What a folder takes; the rest is as for a file. On MLX's CPU device all numbers become float32.

    Raises:
        OptionValueError, ContextTooLargeError, InsufficientMemoryError: it cannot be had with these options.
    """
    if not folder.train_context_length and not options.context_length:
        raise OptionValueError(
            f"{folder.path}: config.json does not say for how many tokens the model was trained. Load it with a "
            "`context_length` of your own."
        )
    types = folder.bytes_by_type
    # What mlx-lm widens while it loads; on the CPU device all numbers become float32.
    wider = {"F16": 2, "BF16": 2, "F8_E4M3": 4, "F8_E5M2": 4} if device == "cpu" else {"F8_E4M3": 2, "F8_E5M2": 2}
    in_float32 = device == "cpu" or types.get("F32", 0) > types.get("F16", 0) + types.get("BF16", 0)
    return _required(
        _Demand(
            name=folder.name,
            train_context_length=folder.train_context_length,
            weight_bytes=sum(size * wider.get(kind, 1) for kind, size in types.items()),
            kv_bytes_per_token=folder.kv_bytes_per_token("f32" if in_float32 else "f16"),
            free_bytes=memory,
            headroom=HEADROOM,
        ),
        options,
    )


def _required(demand: Demand, options: LoadOptions) -> Demand:
    error = bad_number(options, "MLX", MAX_SLOTS) or demand.refusal(options)
    if error is not None:
        raise error
    return demand
