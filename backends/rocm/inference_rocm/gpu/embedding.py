"""Token embeddings on the GPU."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
from torch import Tensor

from inference_rocm.gpu.device import Device
from inference_rocm.gpu.forms import FORMS, UNIT
from inference_rocm.gpu.kernels.gather import gather, gather_plain
from inference_rocm.gpu.matrix_blocks import decoding
from inference_rocm.gpu.planes import Planes, plane_types
from inference_rocm.gpu.specimen import Specimen, options

__all__ = ["Embedding", "specimens"]

UNITS, INTERPRETED_UNITS = 32, 128
"""Of 32 weights, that a program decodes."""
WARPS = 1


class Embedding:
    """Rows of a matrix, decoded when they are asked for."""

    def __init__(self, weights: Planes | Tensor, device: Device) -> None:
        self._weights = weights
        self._device = device

    def __call__(self, tokens: Tensor, last: Tensor, slots: Tensor) -> Tensor:
        """float32 [tokens, embedding_length].

        Args:
            tokens: int32 [tokens]; -1 means the token that the slot drew last.
            last: int32 [all slots]: what each slot drew last.
            slots: int32 [tokens]: each token's slot.
        """
        weights, count = self._weights, len(tokens)
        length = weights.inputs if isinstance(weights, Planes) else weights.shape[1]
        out = torch.empty(count, length, device=tokens.device)
        if isinstance(weights, Planes):
            units, block = length // UNIT, INTERPRETED_UNITS if self._device.interpreted else UNITS
            gather[(count, triton.cdiv(units, block))](
                tokens, last, slots, weights.low, weights.high, weights.scales, weights.supers, out, units,
                UNITS=block, **decoding(weights.block_format), **options(WARPS),
            )  # fmt: skip
        else:
            block = UNIT * (INTERPRETED_UNITS if self._device.interpreted else UNITS)
            gather_plain[(count, triton.cdiv(length, block))](
                tokens, last, slots, weights, out, length, INPUTS=block, **options(WARPS)
            )
        return out


def specimens(wave: int) -> Iterator[Specimen]:  # noqa: ARG001 - the same for both
    """Every block format."""
    places = {"tokens": "*i32", "last": "*i32", "slots": "*i32", "out": "*fp32"}
    for name in FORMS:
        planes = plane_types(name)
        missing = dict.fromkeys({"high", "supers"} - planes.keys())
        yield Specimen(
            name=f"gather {name}",
            kernel=gather,
            arguments={**places, **planes, "units": "i32"},
            constants={"UNITS": UNITS, **decoding(name), **missing},
            warps=WARPS,
        )
    for name, kind in {"F32": "*fp32", "F16": "*fp16", "BF16": "*bf16"}.items():
        yield Specimen(
            name=f"gather {name}",
            kernel=gather_plain,
            arguments={**places, "weights": kind, "inputs": "i32:16"},
            constants={"INPUTS": UNIT * UNITS},
            warps=WARPS,
        )
