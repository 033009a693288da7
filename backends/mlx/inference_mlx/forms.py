"""The form in which MLX keeps each block format, and the memory that takes. Importing this imports nothing heavy."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias

from inference.gguf.block_formats import block_format
from inference.gguf.header import TensorInfo
from inference.gguf.unsupported import unsupported

__all__ = ["DENSE", "FORMS", "GROUP", "K_QUANT", "MXFP4", "Form", "Mode", "affine", "form_of", "packed_bytes"]

Mode: TypeAlias = Literal["affine", "mxfp4", "dense", "k-quant"]

GROUP = 32
"""Weights that share a scale, in every quantised form but K-quants. Rows of the formats concerned are multiples of it,
and MLX's kernels want no more."""


@dataclass(frozen=True, slots=True)
class Form:
    """How weights lie in memory."""

    mode: Mode
    """- affine: MLX's groups, weight = scale x code + bias, where scale and bias are of the activations' type
    - mxfp4: MLX's groups of 4-bit floats, with a power of two as their scale
    - dense: each weight by itself, in the file's type
    - k-quant: the file's blocks, which the package `mlx-kquant` multiplies"""
    bits: int = 0
    """Of a code; 0 where weights have none of their own."""
    exact: bool = True
    """Whether the weights are the file's, but for the rounding of scales and biases to their type."""


def affine(bits: int, *, exact: bool = True) -> Form:
    """Groups of 32 codes. MLX has 2 to 6 and 8 bits."""
    return Form("affine", bits, exact)


MXFP4 = Form("mxfp4", 4)
DENSE = Form("dense")
K_QUANT = Form("k-quant")

FORMS: Mapping[str, Form] = MappingProxyType(
    {
        "F32": DENSE,
        "F16": DENSE,
        "BF16": DENSE,
        "Q4_0": affine(4),
        "Q4_1": affine(4),
        "Q4_K": affine(4),
        "Q5_0": affine(5),
        "Q5_1": affine(5),
        "Q5_K": affine(5),
        "Q8_0": affine(8),
        # Whole numbers of eight bits times one scale: entries of a table, or products with the groups' own scales.
        "IQ4_NL": affine(8),
        "IQ4_XS": affine(8),
        "Q3_K": affine(8),
        "MXFP4": MXFP4,
        # Each group of 16 has a scale of its own, for which MLX has no groups: they are quantised anew.
        "Q2_K": affine(8, exact=False),
        "Q6_K": affine(8, exact=False),
    }
)
"""By block format, without `mlx-kquant`."""


def form_of(block_format_name: str, kept: Collection[str] = ()) -> Form:
    """The form of matrices in this block format. `kept`: the formats that `mlx-kquant` keeps as they are.

    Raises:
        KeyError: no form is known for it.
    """
    return K_QUANT if block_format_name in kept else FORMS[block_format_name]


def packed_bytes(tensors: Iterable[TensorInfo], *, scale_bytes: int = 2, kept: Collection[str] = ()) -> int:
    """Memory of these tensors in their forms, counted from their shapes. Vectors count as in the file.

    `scale_bytes`: of a scale, and of a bias: 2 on Apple GPUs, 4 where activations are float32. `kept`: as in `form_of`.

    Raises:
        UnsupportedModelError: a tensor has a block format that has no form.
    """
    return sum(_tensor_bytes(tensor, scale_bytes, kept) for tensor in tensors)


def _tensor_bytes(tensor: TensorInfo, scale_bytes: int, kept: Collection[str]) -> int:
    if tensor.type not in FORMS:
        raise unsupported(tensor.path, f"the block format {tensor.type} in tensor `{tensor.name}`", FORMS)
    form = form_of(tensor.type, kept)
    if len(tensor.shape) < 2 or form.mode in ("dense", "k-quant"):
        return block_format(tensor.type).bytes_for(tensor.elements)
    codes, groups = tensor.elements * form.bits // 8, tensor.elements // GROUP
    return codes + groups * (1 if form.mode == "mxfp4" else 2 * scale_bytes)
