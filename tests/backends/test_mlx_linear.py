"""Layers of packed weights multiply, choose and look up what the file says, in the activations' type."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from random_blocks import random_blocks

from inference.gguf.architectures import Part
from inference.gguf.blocks import BLOCK_LAYOUTS

mx = pytest.importorskip("mlx.core")

from inference_mlx.forms import FORMS  # noqa: E402 - after mlx is known to be there
from inference_mlx.linear import embedding_of, linear_of, switch_linear_of  # noqa: E402
from inference_mlx.packing import Packed, Packer  # noqa: E402
from mlx import nn  # noqa: E402
from mlx.utils import tree_flatten  # noqa: E402
from mlx_lm.models.switch_layers import SwitchGLU  # noqa: E402
from mlx_weights import dequantized, random_weights, row_lengths, written  # noqa: E402

X = Part("x")
CLOSE = 2e-5
"""Largest difference by the largest number: float32 sums in another order."""
ROUNDING = {mx.float32: 2e-5, mx.float16: 4e-3, mx.bfloat16: 3e-2}

every_format = pytest.mark.parametrize("name", FORMS)
dense = pytest.mark.parametrize("name", ["F32", "F16", "BF16"])


@pytest.fixture(scope="module", autouse=True)
def on_the_cpu() -> Iterator[None]:
    with mx.stream(mx.cpu):
        yield


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def packed_of(path: Path, name: str, shape: tuple[int, ...], dtype: mx.Dtype = mx.float32) -> Packed:
    return Packer(dtype).pack(random_weights(path / "x.gguf", name, shape), X)


def require_close(found: mx.array, expected: np.ndarray, tolerance: float = CLOSE) -> None:
    assert found.shape == expected.shape
    difference = np.abs(np.array(found.astype(mx.float32)).astype(np.float64) - expected).max()
    assert difference <= tolerance * np.abs(expected).max()


# Linear --------------------------------------------------------------------------------------------------------------


@every_format
def test_activations_of_any_shape_are_multiplied(name: str, tmp_path: Path, rng: np.random.Generator) -> None:
    for columns in row_lengths(name):
        packed = packed_of(tmp_path, name, (11, columns))
        bias = rng.normal(size=11)
        layers = linear_of(packed), linear_of(packed, mx.array(bias))
        for outer in ((1,), (1, 1), (2, 3), (1, 40)):
            x = rng.normal(size=(*outer, columns)).astype(np.float32)
            expected = x.astype(np.float64) @ dequantized(packed).T
            require_close(layers[0](mx.array(x)), expected)
            require_close(layers[1](mx.array(x)), expected + bias)


@every_format
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_what_comes_out_has_the_type_of_the_activations(
    name: str, dtype: mx.Dtype, tmp_path: Path, rng: np.random.Generator
) -> None:
    columns = row_lengths(name)[0]
    packed = packed_of(tmp_path, name, (2, 5, columns), dtype)
    bias = mx.array(rng.normal(size=(2, 5)), mx.float32)  # as files have them
    matrix = Packed(packed.block_format, packed.form, dtype, *(a if a is None else a[1] for a in arrays(packed)))
    x = mx.array(rng.normal(size=(3, columns)), mx.float32).astype(dtype)
    expected = np.array(x.astype(mx.float32)) @ dequantized(matrix).T + np.array(bias[1])
    for layer in (linear_of(matrix, bias[1]), linear_of(matrix)):
        assert layer(x).dtype == dtype
    require_close(linear_of(matrix, bias[1])(x), expected, ROUNDING[dtype])
    chosen = switch_linear_of(packed, bias)(x[:, None], mx.array([1, 1, 1]))
    assert chosen.dtype == dtype
    if packed.form.mode != "dense" or dtype == mx.float32:  # MLX's CPU device chooses dense matrices in float32 only
        require_close(chosen[:, 0], expected, ROUNDING[dtype])
    table = embedding_of(matrix, dtype)
    assert table(mx.array([0])).dtype == table.as_linear(x).dtype == dtype


def arrays(packed: Packed) -> tuple[mx.array, mx.array | None, mx.array | None]:
    return packed.weight, packed.scales, packed.biases


@dense
def test_dense_weights_of_another_type_are_multiplied_in_the_wider_one(
    name: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    packed = packed_of(tmp_path, name, (8, 64), mx.bfloat16)
    x = mx.array(rng.normal(size=(4, 64)), mx.float32).astype(mx.bfloat16)
    expected = (x.astype(mx.float32) @ packed.weight.astype(mx.float32).T).astype(mx.bfloat16)
    if name == "BF16":
        require_close(linear_of(packed)(x), np.array(expected.astype(mx.float32)), ROUNDING[mx.bfloat16])
    else:
        assert mx.array_equal(linear_of(packed)(x), expected)


@dense
def test_dense_weights_keep_the_type_of_the_file(name: str, tmp_path: Path) -> None:
    packed = packed_of(tmp_path, name, (8, 64), mx.float16)
    assert linear_of(packed).weight.dtype == {"F32": mx.float32, "F16": mx.float16, "BF16": mx.bfloat16}[name]


# Experts -------------------------------------------------------------------------------------------------------------


@every_format
def test_each_token_is_multiplied_by_its_experts(name: str, tmp_path: Path, rng: np.random.Generator) -> None:
    columns = row_lengths(name)[0]
    packed, bias = packed_of(tmp_path, name, (5, 7, columns)), rng.normal(size=(5, 7))
    x = rng.normal(size=(2, 3, columns)).astype(np.float32)
    indices = rng.integers(0, 5, (2, 3, 2))
    expected = np.einsum("btc,btkrc->btkr", x, dequantized(packed)[indices]) + bias[indices]
    layer = switch_linear_of(packed, mx.array(bias))
    found = layer(mx.array(x)[:, :, None, None], mx.array(indices))
    require_close(found.squeeze(-2), expected)


@every_format
def test_experts_that_are_sorted_are_multiplied_likewise(name: str, tmp_path: Path, rng: np.random.Generator) -> None:
    columns = row_lengths(name)[0]
    packed = packed_of(tmp_path, name, (5, 7, columns))
    x, indices = rng.normal(size=(70, 1, columns)).astype(np.float32), np.sort(rng.integers(0, 5, 70))
    expected = np.einsum("nuc,nrc->nur", x, dequantized(packed)[indices])
    require_close(switch_linear_of(packed)(mx.array(x), mx.array(indices), sorted_indices=True), expected)


@pytest.mark.parametrize("names", [("Q4_0", "Q4_K", "Q6_K"), ("MXFP4", "Q5_0", "F16")], ids="-".join)
@pytest.mark.parametrize("tokens", [1, 40])
def test_mlx_lms_expert_network_takes_them(
    names: tuple[str, ...], tokens: int, tmp_path: Path, rng: np.random.Generator
) -> None:
    shapes = {"gate_proj": (4, 256, 256), "up_proj": (4, 256, 256), "down_proj": (4, 256, 256)}
    tensors = {key: (name, random_blocks(name, shapes[key], rng, 0.1)) for key, name in zip(shapes, names, strict=True)}
    weights, network = written(tmp_path / "x.gguf", tensors), SwitchGLU(256, 256, 4)
    packed = {key: Packer(mx.float32).pack(weights, Part(key)) for key in shapes}
    for key, each in packed.items():
        setattr(network, key, switch_linear_of(each))
    x, indices = rng.normal(size=(1, tokens, 256)).astype(np.float32), rng.integers(0, 4, (1, tokens, 2))
    gate, up, down = (dequantized(packed[key])[indices] for key in shapes)
    gated, raised = (np.einsum("btc,btkrc->btkr", x, matrix) for matrix in (gate, up))
    expected = np.einsum("btkc,btkrc->btkr", gated / (1 + np.exp(-gated)) * raised, down)
    require_close(network(mx.array(x), mx.array(indices)), expected, 1e-4)


# Embeddings ----------------------------------------------------------------------------------------------------------


@every_format
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_ids_become_rows(name: str, dtype: mx.Dtype, tmp_path: Path) -> None:
    packed = packed_of(tmp_path, name, (9, row_lengths(name)[0]), dtype)
    ids = np.array([[8, 0, 3], [3, 3, 1]])
    found = embedding_of(packed, dtype)(mx.array(ids))
    assert found.dtype == dtype
    require_close(found, dequantized(packed)[ids], ROUNDING[dtype])


@every_format
def test_a_tied_output_is_the_same_memory(name: str, tmp_path: Path, rng: np.random.Generator) -> None:
    packed = packed_of(tmp_path, name, (9, row_lengths(name)[0]))
    before = mx.get_active_memory()
    table = embedding_of(packed, mx.float32)
    held = [array for _, array in tree_flatten(table.parameters())]
    assert {id(array) for array in held} == {id(array) for array in arrays(packed) if array is not None}
    assert mx.get_active_memory() == before
    x = rng.normal(size=(2, row_lengths(name)[0])).astype(np.float32)
    require_close(table.as_linear(mx.array(x)), x @ dequantized(packed).T)


# Their making --------------------------------------------------------------------------------------------------------


def test_layers_are_mlxs_and_mlx_lms_own(tmp_path: Path) -> None:
    for name, layout in BLOCK_LAYOUTS.items():
        packed = packed_of(tmp_path, name, (4, layout.elements * 32))
        assert isinstance(linear_of(packed), (nn.Linear, nn.QuantizedLinear))
        assert isinstance(embedding_of(packed, mx.float32), (nn.Embedding, nn.QuantizedEmbedding))


@pytest.mark.parametrize("name", ["Q4_K", "MXFP4", "F16"])
def test_making_layers_computes_nothing_and_leaves_mlxs_random_numbers_alone(name: str, tmp_path: Path) -> None:
    packed, experts = packed_of(tmp_path, name, (4, 256)), packed_of(tmp_path, name, (2, 4, 256))
    state, before = [mx.array(key) for key in mx.random.state], mx.get_active_memory()
    layers = [linear_of(packed), embedding_of(packed, mx.float32), switch_linear_of(experts)]
    assert all(mx.array_equal(*keys) for keys in zip(state, mx.random.state, strict=True))
    assert mx.get_active_memory() - before < 64
    assert layers
