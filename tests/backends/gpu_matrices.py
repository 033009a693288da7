"""Matrices of every block format on any device, and what they make of rows, beside numpy's float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from inference_rocm.gpu.device import INTERPRETER, Device
from inference_rocm.gpu.embedding import Embedding
from inference_rocm.gpu.experts import routing_of
from inference_rocm.gpu.linear import TritonLinear, weights_of
from inference_rocm.gpu.matrix import Matrix, Routing
from inference_rocm.gpu.matrix_blocks import FEW
from inference_rocm.gpu.planes import Planes
from numpy.typing import NDArray
from random_blocks import random_blocks
from torch import Tensor

from inference.gguf.blocks import BLOCK_LAYOUTS, block_layout

__all__ = [
    "EXACT",
    "FORMATS",
    "ROUNDED",
    "activations",
    "difference",
    "matrix_of",
    "on_device",
    "require_experts",
    "require_gathered",
    "require_near",
    "require_products",
    "short_row",
]

FORMATS = sorted(BLOCK_LAYOUTS)
EXACT = 1e-5
"""Largest difference of one number by the standard deviation of all: float32 sums in another order."""
ROUNDED = {torch.float16: 1e-3, torch.bfloat16: 1.5e-2}
"""Root of the mean square of differences by that of what is right, where matrix cores multiply this type: float16 has
11 bits; bfloat16 has 8, and the interpreter cuts them off."""


def matrix_of(
    name: str, outputs: int, inputs: int, experts: int = 1, seed: int = 1
) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """Blocks [experts x outputs, row bytes], and what they stand for."""
    blocks = random_blocks(name, (experts * outputs, inputs), np.random.default_rng(seed), std=0.05)
    return blocks, block_layout(name).decode(blocks).astype(np.float64)


def on_device(name: str, blocks: NDArray[np.uint8], inputs: int, device: Device = INTERPRETER) -> Planes | Tensor:
    cut = len(blocks) // 3
    return weights_of(block_layout(name), iter((blocks[:cut], blocks[cut:])), len(blocks), inputs, device)


def short_row(name: str) -> int:
    """An odd number of blocks; of plain weights, an odd number."""
    return {1: 77, 32: 352, 256: 768}[block_layout(name).elements]


def activations(rows: int, inputs: int, seed: int = 2) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(rows, inputs)).astype(np.float32))


def difference(found: Tensor, right: NDArray[Any]) -> float:
    return float(np.abs(found.double().cpu().numpy() - right).max() / right.std())


def require_near(found: Tensor, right: NDArray[Any], half: torch.dtype) -> None:
    """As near as products of this type are."""
    if half == torch.float32:
        assert difference(found, right) < EXACT
    else:
        assert (found.double().cpu().numpy() - right).std() / right.std() < ROUNDED[half]


def require_products(name: str, counts: Sequence[int], outputs: int, half: torch.dtype, device: Device) -> None:
    """Of a matrix and so many rows, with a bias, stored and added. Few rows are not rounded at all."""
    inputs = short_row(name)
    blocks, right = matrix_of(name, outputs, inputs)
    bias = activations(1, outputs, 3)[0]
    linear = TritonLinear(Matrix(on_device(name, blocks, inputs, device), bias.to(device.torch), device, half))
    for count in counts:
        rows, stream = activations(count, inputs), activations(count, outputs, 4)
        product = torch.float32 if count <= FEW else half
        expected = rows.double().numpy() @ right.T + bias.double().numpy()
        rows, before, stream = rows.to(device.torch), stream.double().numpy().copy(), stream.to(device.torch)
        require_near(linear(rows), expected, product)
        linear.add_to(stream, rows)
        require_near(stream, expected + before, product)


def require_experts(name: str, together: bool, half: torch.dtype, device: Device) -> None:
    """Each pair of a token and one of its experts goes through that expert's matrix, whether as vectors or `together`
    in tiles."""
    experts, used, tokens, outputs = 5, 2, 11, 19
    inputs = short_row(name)
    blocks, right = matrix_of(name, outputs, inputs, experts)
    bias = activations(experts, outputs, 3)
    weights, biases = on_device(name, blocks, inputs, device), bias.flatten().to(device.torch)
    matrix = Matrix(weights, biases, device, half, experts=experts)
    chosen = torch.from_numpy(np.random.default_rng(5).integers(0, experts - 1, (tokens, used)))  # one has none
    rows, pairs = activations(tokens, inputs), chosen.flatten().to(device.torch)
    out = torch.empty(tokens * used, outputs, device=device.torch)
    if together:
        matrix.rows(rows.to(device.torch), out, routing=routing_of(pairs, experts, 16), share=used)
    else:
        matrix.vectors(rows.to(device.torch), out, routing=Routing(pairs.int()), share=used)
    by_expert = right.reshape(experts, outputs, inputs)
    expected = np.stack(
        [
            by_expert[expert] @ rows[pair // used].double().numpy() + bias[expert].double().numpy()
            for pair, expert in enumerate(pairs.tolist())
        ]
    )
    require_near(out, expected, half if together else torch.float32)


def require_gathered(name: str, device: Device) -> None:
    """Rows are what the file has, for tokens that are given and for those that a slot drew last."""
    outputs, inputs = 23, short_row(name)
    blocks, right = matrix_of(name, outputs, inputs)
    embedding = Embedding(on_device(name, blocks, inputs, device), device)
    last, tokens, slots = (
        torch.tensor(numbers, dtype=torch.int32, device=device.torch)
        for numbers in ([4, 22, 0], [7, -1, -1, 0, 22], [2, 1, 0, 0, -1])
    )
    found = embedding(tokens, last, slots).cpu().numpy()
    # float32's last bit: a sum of the same numbers in another order
    np.testing.assert_allclose(found, right[[7, 22, 4, 0, 22]], rtol=2e-6, atol=1e-7)
