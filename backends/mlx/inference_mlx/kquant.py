"""The optional package `mlx-kquant`: Metal kernels that multiply some block formats as they are in the file.

Importing this imports nothing heavy. What is used of the package is what its README shows: `codecs`, `dequantize`,
`quantized_matmul` and `gather_qmm`.
"""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    import mlx.core as mx

__all__ = ["KEPT", "KQuants", "codec_of", "kept_formats", "kquants"]

KEPT = ("Q2_K", "Q3_K", "Q6_K", "IQ4_NL", "IQ4_XS")
"""The block formats for which the package is used. MLX's groups hold the others exactly, in about the file's size."""

_log = logging.getLogger(__name__)


class KQuants(Protocol):
    """The functions of the package that are used. Weights are uint8 [..., rows, row bytes]. Scales lie inside them:
    the argument `scales` is not looked at. Activations of float32 are computed, and come back, as bfloat16."""

    def codecs(self) -> Sequence[str]:
        """The formats that it knows, by ggml's names in lower case."""

    def dequantize(
        self, w: mx.array, scales: mx.array, kquant_type: str, dtype: mx.Dtype | None = None
    ) -> mx.array: ...

    def quantized_matmul(
        self, x: mx.array, w: mx.array, scales: mx.array, kquant_type: str, transpose: bool = True
    ) -> mx.array: ...

    def gather_qmm(
        self,
        x: mx.array,
        w: mx.array,
        scales: mx.array,
        kquant_type: str,
        lhs_indices: mx.array | None = None,
        rhs_indices: mx.array | None = None,
        transpose: bool = True,
        sorted_indices: bool = False,
    ) -> mx.array: ...


def kept_formats(device: str) -> frozenset[str]:
    """Those of `KEPT` that stay as they are on "metal" or "cpu": none without the package, or on the CPU, where its
    kernels are slow. If it is installed and cannot be used, the log says why, once."""
    return _usable_formats() if device == "metal" else frozenset()


def kquants() -> KQuants:
    """The package.

    Raises:
        ImportError: it is not installed, or made for another version of MLX.
    """
    return cast("KQuants", importlib.import_module("mlx_kquant"))


def codec_of(block_format: str) -> str:
    """The package's name for ggml's "Q6_K"."""
    return block_format.lower()


@cache
def _usable_formats() -> frozenset[str]:
    if find_spec("mlx_kquant") is None:
        return frozenset()
    mismatch = _mismatch()
    if mismatch:
        _log.warning("mlx-kquant is not used: %s", mismatch)
        return frozenset()
    try:
        known = kquants().codecs()
    except Exception as error:  # noqa: BLE001 - an extension built for another MLX may raise anything
        _log.warning(
            "mlx-kquant is not used, since it cannot be imported: %s. Matrices in %s take 8 bits instead.",
            error,
            ", ".join(KEPT),
        )
        return frozenset()
    missing = [name for name in KEPT if codec_of(name) not in known]
    if missing:
        _log.warning("mlx-kquant has no %s: matrices in these formats take 8 bits.", ", ".join(missing))
    return frozenset(KEPT).difference(missing)


def _mismatch() -> str | None:
    """What it needs that is not so, or None. Its compiled code fits one version of MLX, and with another may crash."""
    try:
        needed, installed = requires("mlx-kquant") or (), version("mlx")
    except PackageNotFoundError:
        return None
    for requirement in needed:
        pin = re.match(r"mlx\s*==\s*([\w.]+)", requirement)
        if pin and pin[1] != installed:
            return (
                f"it is built for MLX {pin[1]}, and {installed} is installed. Matrices in {', '.join(KEPT)} take "
                f'8 bits instead. pip install "mlx=={pin[1]}", or an mlx-kquant for {installed}, changes that.'
            )
    return None
