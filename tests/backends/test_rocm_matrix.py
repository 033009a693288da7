"""Matrices on the GPU: what the kernels make of every block format, on Triton's interpreter."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from inference.gguf.blocks import GroupedLayout, block_layout

torch = pytest.importorskip("torch")
pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("Triton compiles for the GPU here", allow_module_level=True)

from gpu_matrices import (  # noqa: E402 - after torch and triton are known to be there
    FORMATS,
    activations,
    matrix_of,
    on_device,
    require_experts,
    require_gathered,
    require_near,
    require_products,
    short_row,
)
from inference_rocm.gpu.device import INTERPRETER, Device  # noqa: E402
from inference_rocm.gpu.embedding import Embedding  # noqa: E402
from inference_rocm.gpu.experts import routing_of  # noqa: E402
from inference_rocm.gpu.forms import FORMS, bytes_per_weight  # noqa: E402
from inference_rocm.gpu.linear import TritonLinear  # noqa: E402
from inference_rocm.gpu.matrix import Matrix, Routing  # noqa: E402
from inference_rocm.gpu.planes import Planes  # noqa: E402
from torch import Tensor  # noqa: E402


@pytest.mark.parametrize("name", FORMATS)
def test_rows_of_any_number_are_multiplied_and_added(name: str) -> None:
    require_products(name, (1, 2, 3, 4, 5, 17), 37, torch.float32, INTERPRETER)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", FORMATS)
def test_matrix_cores_round_to_the_half_type_and_no_more(name: str, half: torch.dtype) -> None:
    require_products(name, (3, 9), 20, half, INTERPRETER)
    blocks, right = matrix_of(name, 20, short_row(name))
    linear = TritonLinear(Matrix(on_device(name, blocks, short_row(name)), None, INTERPRETER, half))
    rows = activations(9, short_row(name)).to(half)
    require_near(linear(rows), rows.double().numpy() @ right.T, half)


@pytest.mark.parametrize("name", ["Q4_K", "Q6_K", "Q8_0", "Q3_K", "F16", "MXFP4"])
@pytest.mark.parametrize("wave", [32, 64])
def test_the_blocks_that_a_gpu_gets_compute_the_same(name: str, wave: int) -> None:
    require_products(name, (1, 2, 3, 18), 41, torch.float32, Device(torch.device("cpu"), wave, units=1))


@pytest.mark.parametrize("name", ["Q4_K", "Q5_1", "Q6_K", "IQ4_XS", "MXFP4", "F16"])
@pytest.mark.parametrize("together", [False, True])
def test_each_pair_goes_through_its_own_expert(name: str, together: bool) -> None:
    require_experts(name, together, torch.float32, INTERPRETER)


def at_the_end(part: Tensor, times: int) -> Tensor:
    """Of memory for so many as these, which takes none where it is not touched."""
    memory = torch.empty(times * len(part), *part.shape[1:], dtype=part.dtype)
    memory[-len(part) :] = part
    return memory


@pytest.mark.parametrize("name", ["Q2_K", "F16"])
def test_experts_and_embeddings_lie_beyond_two_to_the_31_numbers(name: str) -> None:
    outputs, inputs = 16, 256
    blocks, right = matrix_of(name, outputs, inputs)
    weights: Any = on_device(name, blocks, inputs)
    experts = 2**31 // (outputs * inputs // (8 if isinstance(weights, Planes) else 1)) + 2  # a unit's four numbers
    if isinstance(weights, Planes):
        low, scales, supers = (at_the_end(getattr(weights, part), experts) for part in ("low", "scales", "supers"))
        weights = replace(weights, outputs=experts * outputs, low=low, scales=scales, supers=supers)
        assert low[:-outputs].numel() > 2**31
    else:
        weights = at_the_end(weights, experts)
        assert weights[:-outputs].numel() > 2**31
    matrix = Matrix(weights, None, INTERPRETER, torch.float32, experts=experts)
    rows, out, chosen = activations(2, inputs), torch.empty(2, outputs), torch.full((2,), experts - 1).int()
    matrix.vectors(rows, out, routing=Routing(chosen), share=1)
    require_near(out, rows.double().numpy() @ right.T, torch.float32)
    tiles = torch.tensor([0, 1, *[-1] * 14], dtype=torch.int32)
    matrix.rows(rows, out.fill_(0), routing=Routing(chosen, tiles, chosen[:1], 16), share=1)
    require_near(out, rows.double().numpy() @ right.T, torch.float32)
    last = torch.tensor([experts * outputs - 1], dtype=torch.int32)
    np.testing.assert_allclose(Embedding(weights, INTERPRETER)(last, last, last), right[-1:], rtol=2e-6, atol=1e-7)


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
    require_gathered(name, INTERPRETER)


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
