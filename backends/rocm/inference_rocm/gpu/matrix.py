"""Matrices on the GPU, and multiplying with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from inference_rocm.gpu.device import Device
from inference_rocm.gpu.forms import FORMS, UNIT
from inference_rocm.gpu.kernels.gemv import gemv, gemv_plain
from inference_rocm.gpu.kernels.matmul import matmul, matmul_plain
from inference_rocm.gpu.matrix_blocks import matmul_blocks, rows_constants, vectors_constants
from inference_rocm.gpu.planes import Planes, plane_types
from inference_rocm.gpu.specimen import Specimen, options

__all__ = ["Matrix", "Routing", "specimens"]


@dataclass(frozen=True, slots=True)
class Routing:
    """Which expert's matrix each pair of a token and one of its experts goes to; all on the device.

    Pair p is of token p // share, where `share` is how many experts a token has.
    """

    chosen: Tensor
    """int32 [pairs]."""
    tiles: Tensor | None = None
    """int32 [tiles x rows]: pairs in the order of their experts, each expert's from a new tile on; -1 fills tiles."""
    expert_of_tile: Tensor | None = None
    """int32 [tiles]; -1 where there is nothing to do."""
    tile_rows: int = 0


class Matrix:
    """Weights [outputs, inputs], or as many for each expert, and perhaps a bias."""

    def __init__(
        self, weights: Planes | Tensor, bias: Tensor | None, device: Device, half: torch.dtype, *, experts: int = 1
    ) -> None:
        """`weights`: planes, or floats [experts x outputs, inputs]. `bias`: float32 [experts x outputs]. `half`: what
        the matrix cores multiply."""
        rows, inputs = (weights.outputs, weights.inputs) if isinstance(weights, Planes) else weights.shape
        self.outputs, self.inputs = rows // experts, inputs
        self.size_bytes = weights.size_bytes if isinstance(weights, Planes) else weights.nbytes
        self.weights = weights
        self._format = weights.block_format if isinstance(weights, Planes) else None
        self._bias = bias
        self._device = device
        self._half = half

    def vectors(
        self, rows: Tensor, out: Tensor, *, add: bool = False, routing: Routing | None = None, share: int = 0
    ) -> None:
        """`out`, float32 [n, outputs], becomes, or with `add` grows by, what the matrix makes of `rows`, [n, inputs]:
        FEW at most. With `routing`, out[p] is made of rows[p // share] by the matrix chosen[p], for any number of
        pairs."""
        chosen, count = (None, len(out)) if routing is None else (routing.chosen, 1)
        constants = vectors_constants(self._format, self.outputs, self.inputs, count, self._device)
        grid = (triton.cdiv(self.outputs, constants["OUTPUTS"]), 1 if routing is None else len(out))
        constants |= self._uses(add, share if routing is not None else 0)
        weights = self.weights
        if isinstance(weights, Planes):
            planes = weights.low, weights.high, weights.scales, weights.supers
            gemv[grid](rows, *planes, self._bias, chosen, out, self.outputs, self.inputs // UNIT, **constants)
        else:
            gemv_plain[grid](rows, weights, self._bias, chosen, out, self.outputs, self.inputs, **constants)

    def rows(
        self, rows: Tensor, out: Tensor, *, add: bool = False, routing: Routing | None = None, share: int = 0
    ) -> None:
        """The same for any number of rows, by the matrix cores."""
        count = len(rows) if routing is None else routing.tile_rows
        blocks = matmul_blocks(count, self._device, self.outputs, self.inputs)
        constants = rows_constants(self._format, blocks, self._half, self._device)
        pairs = experts = None
        tiles = triton.cdiv(len(out), blocks.rows)
        if routing is not None:
            assert routing.expert_of_tile is not None
            pairs, experts, tiles = routing.tiles, routing.expert_of_tile, len(routing.expert_of_tile)
        grid = (triton.cdiv(self.outputs, blocks.outputs), tiles)
        constants |= self._uses(add, share if routing is not None else 0)
        weights, routed = self.weights, (pairs, experts)
        if isinstance(weights, Planes):
            planes = weights.low, weights.high, weights.scales, weights.supers
            sizes = len(out), self.outputs, self.inputs // UNIT
            matmul[grid](rows, *planes, self._bias, *routed, out, *sizes, **constants)
        else:
            sizes = len(out), self.outputs, self.inputs
            matmul_plain[grid](rows, weights, self._bias, *routed, out, *sizes, **constants)

    def _uses(self, add: bool, share: int) -> dict[str, Any]:
        return {"ADD": add, "BIASED": self._bias is not None, "SHARE": share}


_OUTPUTS, _INPUTS = 14336, 4096
"""Llama-3 8B's gates."""
_FLOATS = {"F32": "*fp32", "F16": "*fp16", "BF16": "*bf16"}


def specimens(wave: int) -> Iterator[Specimen]:
    """Every block format with a few rows, with many, and with experts."""
    device = Device(torch.device("cuda"), wave, units=304 if wave == 64 else 96)
    for name in (*FORMS, *_FLOATS):
        yield from _vectors(name, device)
        yield from _rows(name, device)


def _vectors(name: str, device: Device) -> Iterator[Specimen]:
    form = name if name in FORMS else None
    for rows, share in ((1, 0), (2, 0), (3, 0), (4, 0), (1, 8)):
        constants = vectors_constants(form, _OUTPUTS, _INPUTS, rows, device)
        arguments = {"vectors": "*fp32", **_weights(name), "bias": "*fp32", "out": "*fp32", "outputs": "i32:16"}
        variant = f"gemv {name}, {rows} row{'s' if rows > 1 else ''}{', experts' if share else ''}"
        yield _specimen(variant, gemv if form else gemv_plain, arguments, constants, share, ["chosen"])


def _rows(name: str, device: Device) -> Iterator[Specimen]:
    form = name if name in FORMS else None
    half = torch.bfloat16 if name == "BF16" else torch.float32 if name == "F32" else torch.float16
    for rows, share in ((16, 0), (32, 0), (512, 0), (16, 8), (512, 8)):
        blocks = matmul_blocks(rows, device)
        constants = rows_constants(form, blocks, half, device)
        vectors = _FLOATS["F32" if rows < 512 else name if name in _FLOATS else "F16"]
        arguments = {
            "vectors": vectors, **_weights(name), "bias": "*fp32", "out": "*fp32", "rows": "i32", "outputs": "i32:16",
        }  # fmt: skip
        variant = f"matmul {name}, tiles of {blocks.rows} rows{', experts' if share else ''}"
        yield _specimen(
            variant, matmul if form else matmul_plain, arguments, constants, share, ["pairs", "expert_of_tile"]
        )


def _weights(name: str) -> dict[str, str]:
    return {"units": "i32", **plane_types(name)} if name in FORMS else {"inputs": "i32:16", "weights": _FLOATS[name]}


def _specimen(
    name: str, kernel: Any, arguments: dict[str, str], constants: dict[str, Any], share: int, routed: list[str]
) -> Specimen:
    warps = constants["num_warps"]
    constants = {key: value for key, value in constants.items() if key not in options(warps)}
    constants |= {"ADD": True, "BIASED": True, "SHARE": share}
    arguments |= dict.fromkeys(routed, "*i32") if share else {}
    missing = {key: None for key in kernel.arg_names if key not in arguments and key not in constants}
    return Specimen(name=name, kernel=kernel, arguments=arguments, constants=constants | missing, warps=warps)
