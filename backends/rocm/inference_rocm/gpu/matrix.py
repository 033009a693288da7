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
from inference_rocm.gpu.specimen import Specimen, on_matrix_cores, options
from inference_rocm.gpu.workspace import MANY

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


# What is compiled ahead of time ---------------------------------------------------------------------------------------

_OUTPUTS, _INPUTS = 14336, 4096
"""Llama-3 8B's gates."""
_VOCABULARY = 32001
"""Tokens of a model that was given one more: no multiple of 16."""
_FLOATS = {"F32": "*fp32", "F16": "*fp16", "BF16": "*bf16"}
_HALVES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
_MIXED = (("F16", "BF16"), ("BF16", "F16"), ("F32", "F16"), ("F32", "BF16"))
"""Plain weights in models of another half type."""
_LAST = (
    ("Q6_K", "F16"), ("Q6_K", "BF16"), ("Q8_0", "F16"), ("F16", "F16"), ("F16", "BF16"), ("BF16", "BF16"),
    ("F32", "F32"),
)  # fmt: skip
"""Of matrices that have as many outputs as there are tokens or experts: their formats, and models' half types."""
_PLANES = frozenset({"weights", "low", "high", "scales", "supers"})


def specimens(wave: int) -> Iterator[Specimen]:
    """Every block format with a few rows, with many, and with experts; in models of each half type."""
    device = Device(torch.device("cuda"), wave, units=304 if wave == 64 else 96)
    for name in (*FORMS, *_FLOATS):
        for rows, share in ((1, 0), (2, 0), (3, 0), (4, 0), (1, 8)):
            yield _vectors(name, rows, share, device)
        for half in (name,) if name in _FLOATS else ("F16", "BF16"):
            yield from (_rows(name, half, *case, device) for case in _cases(half))
    for name, half in _MIXED:
        yield from (_rows(name, half, *case, device) for case in ((16, 0), (512, 0), (16, 8), (512, 8)))
    for name, half in _LAST:
        yield from (_rows(name, half, rows, 0, device, _VOCABULARY) for rows in (16, 512 if name == "F32" else MANY))
    for name in ("Q4_K", "Q5_K", "Q6_K", "Q8_0", *_FLOATS):
        yield from (_vectors(name, rows, 0, device, _VOCABULARY) for rows in (1, 4))
    yield from _large(device)


def _large(device: Device) -> Iterator[Specimen]:
    """Matrices of 2 GiB: a vocabulary's, and where there is memory for such models, all experts' of a layer."""
    for name in ("F16", "BF16"):
        yield _vectors(name, 1, 0, device, large=True)
        yield from (_rows(name, name, rows, 0, device, large=True) for rows in (16, MANY))
    for name in ("Q4_K", "Q6_K", "BF16") if device.wave == 64 else ():
        yield _vectors(name, 1, 8, device, large=True)
        yield from (_rows(name, "BF16", rows, 8, device, large=True) for rows in (32, 512))


def _cases(half: str) -> Iterator[tuple[int, int]]:
    """Tokens of a step, or of an expert's tile, and how many experts share one (0 for a matrix that is no expert's). Of
    tiles of 16 rows, those of experts differ little between half types."""
    yield from ((16, 0), (32, 0), (512, 0), (32, 8), (512, 8))
    if half != "F32":
        yield MANY, 0
    if half != "BF16":
        yield 16, 8


def _vectors(
    name: str, rows: int, share: int, device: Device, outputs: int = _OUTPUTS, *, large: bool = False
) -> Specimen:
    form = name if name in FORMS else None
    return _specimen(
        f"gemv {name}, {rows} row{'s' if rows > 1 else ''}",
        gemv if form else gemv_plain,
        {"vectors": "*fp32", **_weights(name, outputs), **({"chosen": "*i32"} if share else {})},
        vectors_constants(form, outputs, _INPUTS, rows, device),
        share,
        large=large,
    )


def _rows(
    name: str, half: str, rows: int, share: int, device: Device, outputs: int = _OUTPUTS, *, large: bool = False
) -> Specimen:
    form = name if name in FORMS else None
    blocks = matmul_blocks(rows, device, outputs)
    # Of many experts each has few tokens in a step of many: only a tile of 16 may be of a step of few.
    vectors = "F32" if rows <= (16 if share else MANY) else half
    usual = half == (name if name in _FLOATS else "F16")
    routed = dict.fromkeys(("pairs", "expert_of_tile"), "*i32") if share else {}
    return _specimen(
        f"matmul {name}{'' if usual else f' in {half}'}, tiles of {blocks.rows} rows"
        f"{' of float32' if rows == MANY else ''}",
        matmul if form else matmul_plain,
        {"vectors": _FLOATS[vectors], "rows": "i32", **_weights(name, outputs), **routed},
        rows_constants(form, blocks, _HALVES[half], device),
        share,
        large=large,
        matrix=on_matrix_cores(_HALVES[half].itemsize, device.wave),
    )


def _weights(name: str, outputs: int) -> dict[str, str]:
    own = {"units": "i32", **plane_types(name)} if name in FORMS else {"inputs": "i32:16", "weights": _FLOATS[name]}
    return {**own, "outputs": "i32" if outputs % 16 else "i32:16", "bias": "*fp32", "out": "*fp32"}


def _specimen(
    name: str,
    kernel: Any,
    arguments: dict[str, str],
    constants: dict[str, Any],
    share: int,
    *,
    large: bool,
    matrix: bool = False,
) -> Specimen:
    warps = constants["num_warps"]
    constants = {key: value for key, value in constants.items() if key not in options(warps)}
    constants |= {"ADD": True, "BIASED": True, "SHARE": share}
    missing = {key: None for key in kernel.arg_names if key not in arguments and key not in constants}
    odd = arguments["outputs"] == "i32"
    return Specimen(
        name=f"{name}{', experts' if share else ''}{', odd outputs' if odd else ''}{', 2 GiB' if large else ''}",
        kernel=kernel,
        arguments=arguments,
        constants=constants | missing,
        warps=warps,
        large=_PLANES & arguments.keys() if large else frozenset(),
        matrix=matrix,
    )
