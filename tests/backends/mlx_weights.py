"""Files with a few tensors, and what MLX's packed forms say again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import gguf
import mlx.core as mx
import numpy as np
from inference_mlx.forms import GROUP
from inference_mlx.packing import Packed
from numpy.typing import NDArray
from random_blocks import random_blocks

from inference.gguf.blocks import block_layout
from inference.gguf.reader import read_header
from inference.gguf.weights import Weights

__all__ = ["dequantized", "random_weights", "row_lengths", "written"]

Tensors = Mapping[str, tuple[str, NDArray[np.uint8]]]
"""Block format and blocks, [..., row bytes], by name."""


def written(path: Path, tensors: Tensors) -> Weights:
    """The tensors in a file, mapped into memory."""
    writer = gguf.GGUFWriter(path, "llama")
    for name, (block_format, blocks) in tensors.items():
        writer.add_tensor(name, blocks, raw_dtype=gguf.GGMLQuantizationType[block_format])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Weights(read_header(path))


def random_weights(path: Path, block_format: str, shape: tuple[int, ...], seed: int = 0) -> Weights:
    """A file with one random tensor, `x`, of that shape in numpy's order."""
    blocks = random_blocks(block_format, shape, np.random.default_rng(seed), std=0.02)
    return written(path, {"x": (block_format, blocks)})


def row_lengths(block_format: str) -> tuple[int, ...]:
    """Short ones, that are multiples of 32 and of little more."""
    elements = block_layout(block_format).elements
    return tuple(elements * count for count in (1, 3, 5)) if elements > 1 else (32, 96, 160)


def dequantized(packed: Packed, dtype: mx.Dtype = mx.float32) -> NDArray[np.float32]:
    """By MLX, with scales and biases first brought to `dtype`: in float32 nothing rounds but they."""
    if packed.scales is None:
        values = packed.weight.astype(mx.float32)
    else:
        affine = packed.form.mode == "affine"
        values = mx.dequantize(
            packed.weight,
            packed.scales.astype(dtype) if affine else packed.scales,
            None if packed.biases is None else packed.biases.astype(dtype),
            group_size=GROUP,
            bits=packed.form.bits,
            mode=packed.form.mode,
            dtype=dtype,
        ).astype(mx.float32)
    return np.array(values)
