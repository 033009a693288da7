"""Matrices on the GPU: what the kernels make of every block format, on Triton's interpreter."""

from __future__ import annotations

import os

import numpy as np
import pytest
from random_blocks import random_blocks

from inference.gguf.blocks import BLOCK_LAYOUTS, GroupedLayout, block_layout

torch = pytest.importorskip("torch")
pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("Triton compiles for the GPU here", allow_module_level=True)

from inference_rocm.gpu.device import INTERPRETER, Device  # noqa: E402 - after torch and triton are known to be there
from inference_rocm.gpu.embedding import Embedding  # noqa: E402
from inference_rocm.gpu.experts import routing_of  # noqa: E402
from inference_rocm.gpu.forms import FORMS, bytes_per_weight  # noqa: E402
from inference_rocm.gpu.linear import TritonLinear, weights_of  # noqa: E402
from inference_rocm.gpu.matrix import Matrix, Routing  # noqa: E402
from inference_rocm.gpu.planes import Planes  # noqa: E402

FORMATS = sorted(BLOCK_LAYOUTS)
EXACT = 1e-5
"""Largest difference of one number by the standard deviation of all: float32 sums in another order."""
ROUNDED = {torch.float16: 1e-3, torch.bfloat16: 1.5e-2}
"""Root of the mean square of differences by that of what is right, where matrix cores multiply this type: float16 has
11 bits; bfloat16 has 8, and the interpreter cuts them off."""


def matrix_of(name: str, outputs: int, inputs: int, experts: int = 1, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Blocks [experts x outputs, row bytes], and what they stand for."""
    blocks = random_blocks(name, (experts * outputs, inputs), np.random.default_rng(seed), std=0.05)
    return blocks, block_layout(name).decode(blocks).astype(np.float64)


def on_device(name: str, blocks: np.ndarray, inputs: int, device: Device = INTERPRETER) -> Planes | torch.Tensor:
    cut = len(blocks) // 3
    return weights_of(block_layout(name), iter((blocks[:cut], blocks[cut:])), len(blocks), inputs, device)


def short_row(name: str) -> int:
    """An odd number of blocks; of plain weights, an odd number."""
    return {1: 77, 32: 352, 256: 768}[block_layout(name).elements]


def difference(found: torch.Tensor, right: np.ndarray) -> float:
    return float(np.abs(found.double().numpy() - right).max() / right.std())


def spread(found: torch.Tensor, right: np.ndarray) -> float:
    return float((found.double().numpy() - right).std() / right.std())


def activations(rows: int, inputs: int, seed: int = 2) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(rows, inputs)).astype(np.float32))


@pytest.mark.parametrize("name", FORMATS)
def test_rows_of_any_number_are_multiplied_and_added(name: str) -> None:
    outputs, inputs = 37, short_row(name)
    blocks, right = matrix_of(name, outputs, inputs)
    bias = activations(1, outputs, 3)[0]
    linear = TritonLinear(Matrix(on_device(name, blocks, inputs), bias, INTERPRETER, torch.float32))
    for count in (1, 2, 3, 4, 5, 17):
        rows = activations(count, inputs)
        expected = rows.double().numpy() @ right.T + bias.double().numpy()
        assert difference(linear(rows), expected) < EXACT
        stream = activations(count, outputs, 4)
        before = stream.double().numpy().copy()
        linear.add_to(stream, rows)
        assert difference(stream, expected + before) < EXACT


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", FORMATS)
def test_matrix_cores_round_to_the_half_type_and_no_more(name: str, half: torch.dtype) -> None:
    outputs, inputs = 20, short_row(name)
    blocks, right = matrix_of(name, outputs, inputs)
    rows = activations(9, inputs)
    linear = TritonLinear(Matrix(on_device(name, blocks, inputs), None, INTERPRETER, half))
    assert spread(linear(rows), rows.double().numpy() @ right.T) < ROUNDED[half]
    assert spread(linear(rows.to(half)), rows.to(half).double().numpy() @ right.T) < ROUNDED[half]
    # Few rows are not rounded at all.
    assert difference(linear(rows[:3]), rows[:3].double().numpy() @ right.T) < EXACT


@pytest.mark.parametrize("name", ["Q4_K", "Q6_K", "Q8_0", "Q3_K", "F16", "MXFP4"])
@pytest.mark.parametrize("wave", [32, 64])
def test_the_blocks_that_a_gpu_gets_compute_the_same(name: str, wave: int) -> None:
    gpu = Device(torch.device("cpu"), wave, units=1)
    outputs, inputs = 41, short_row(name)
    blocks, right = matrix_of(name, outputs, inputs)
    linear = TritonLinear(Matrix(on_device(name, blocks, inputs), None, gpu, torch.float32))
    for count in (1, 2, 3, 18):
        rows = activations(count, inputs)
        assert difference(linear(rows), rows.double().numpy() @ right.T) < EXACT


@pytest.mark.parametrize("name", ["Q4_K", "Q5_1", "Q6_K", "IQ4_XS", "MXFP4", "F16"])
@pytest.mark.parametrize("together", [False, True])
def test_each_pair_goes_through_its_own_expert(name: str, together: bool) -> None:
    experts, used, tokens, outputs = 5, 2, 11, 19
    inputs = short_row(name)
    blocks, right = matrix_of(name, outputs, inputs, experts)
    bias = activations(experts, outputs, 3)
    matrix = Matrix(on_device(name, blocks, inputs), bias.flatten(), INTERPRETER, torch.float32, experts=experts)
    chosen = torch.from_numpy(np.random.default_rng(5).integers(0, experts - 1, (tokens, used)))  # one has none
    rows = activations(tokens, inputs)
    out = torch.empty(tokens * used, outputs)
    pairs = chosen.flatten()
    if together:
        matrix.rows(rows, out, routing=routing_of(pairs, experts, 16), share=used)
    else:
        matrix.vectors(rows, out, routing=Routing(pairs.int()), share=used)
    by_expert = right.reshape(experts, outputs, inputs)
    expected = np.stack(
        [
            by_expert[expert] @ rows[pair // used].double().numpy() + bias[expert].double().numpy()
            for pair, expert in enumerate(pairs.tolist())
        ]
    )
    assert difference(out, expected) < EXACT


def test_tiles_hold_every_pair_once_and_one_expert_each() -> None:
    rng = np.random.default_rng(7)
    for experts, pairs, rows in ((4, 1, 16), (4, 33, 16), (128, 64, 16), (3, 100, 32), (8, 200, 16)):
        chosen = torch.from_numpy(rng.integers(0, experts, pairs))
        routing = routing_of(chosen, experts, rows)
        assert routing.tiles is not None
        assert routing.expert_of_tile is not None
        tiles = routing.tiles.reshape(-1, rows)
        held = tiles[tiles >= 0]
        assert sorted(held.tolist()) == list(range(pairs))
        for tile, expert in zip(tiles, routing.expert_of_tile.tolist(), strict=True):
            inside = tile[tile >= 0]
            assert (chosen[inside.long()] == expert).all()
            assert expert >= 0 or len(inside) == 0


@pytest.mark.parametrize("name", FORMATS)
def test_rows_are_gathered_as_the_file_has_them(name: str) -> None:
    outputs, inputs = 23, short_row(name)
    blocks, right = matrix_of(name, outputs, inputs)
    embedding = Embedding(on_device(name, blocks, inputs), INTERPRETER)
    last = torch.tensor([4, 22, 0], dtype=torch.int32)
    tokens = torch.tensor([7, -1, -1, 0, 22], dtype=torch.int32)
    slots = torch.tensor([2, 1, 0, 0, -1], dtype=torch.int32)
    found = embedding(tokens, last, slots).numpy()
    # float32's last bit: a sum of the same numbers in another order
    np.testing.assert_allclose(found, right[[7, 22, 4, 0, 22]], rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("name", FORMATS)
def test_weights_take_what_the_form_says_and_hardly_more_than_in_the_file(name: str) -> None:
    inputs = short_row(name)
    blocks, _ = matrix_of(name, 6, inputs)
    weights = on_device(name, blocks, inputs)
    size = weights.size_bytes if isinstance(weights, Planes) else weights.nbytes
    assert size == bytes_per_weight(name) * 6 * inputs
    assert size <= 1.04 * blocks.nbytes


@pytest.mark.parametrize("name", sorted(FORMS))
def test_the_greatest_and_the_least_numbers_are_told_apart(name: str) -> None:
    """Every bit of the planes counts: blocks of nothing but zeros and nothing but ones."""
    layout = block_layout(name)
    assert isinstance(layout, GroupedLayout)
    blocks = np.zeros((4, layout.fields.itemsize), np.uint8)
    numbers = blocks.reshape(-1).view(layout.fields)
    for field in layout.fields.names or ():
        if field in ("d", "m", "dmin"):
            numbers[field] = 0.5
        elif field == "e":
            numbers[field] = [0, 1, 2, 130]
        else:
            numbers[field][1::2] = np.iinfo(numbers[field].dtype).max
            numbers[field][3:] = -1 if np.iinfo(numbers[field].dtype).min else np.iinfo(numbers[field].dtype).max
    right = layout.decode(blocks)
    tokens = torch.arange(4, dtype=torch.int32)
    found = Embedding(on_device(name, blocks, layout.elements), INTERPRETER)(tokens, tokens, tokens).numpy()
    np.testing.assert_allclose(found, right, rtol=1e-6, atol=0)
