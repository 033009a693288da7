"""From a file's blocks to MLX's arrays: the same weights, in about the file's size."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_blocks import random_blocks

from inference.errors import ModelClosedError, UnsupportedModelError
from inference.gguf.architectures import Part
from inference.gguf.block_formats import block_format
from inference.gguf.blocks import BLOCK_LAYOUTS, GroupedLayout, block_layout
from inference.gguf.header import TensorInfo

mx = pytest.importorskip("mlx.core")

from inference_mlx import packing  # noqa: E402 - after mlx is known to be there
from inference_mlx.forms import FORMS, packed_bytes  # noqa: E402
from inference_mlx.packing import Packed, Packer  # noqa: E402
from mlx_weights import dequantized, random_weights, row_lengths, written  # noqa: E402

X = Part("x")
GROUPED = [name for name, layout in BLOCK_LAYOUTS.items() if isinstance(layout, GroupedLayout)]
EXACT = [name for name in GROUPED if FORMS[name].exact]
ANEW = [name for name in GROUPED if not FORMS[name].exact]
EPSILON = {"float32": 0.0, "float16": 2.0**-11, "bfloat16": 2.0**-8}
"""Half the gap between two numbers, by their size."""
MEASURED = {"Q2_K": (0.0026, 0.0032), "Q6_K": (0.0043, 0.0044)}
"""Root mean square of what quantising anew changes in random weights by their own, in float16 and in bfloat16."""
NEAR_THE_FILE = {"Q4_0", "Q4_1", "Q4_K", "Q5_0", "Q5_1", "Q5_K", "Q8_0", "MXFP4", "F32", "F16", "BF16"}
FACTORS = {"Q2_K": 3.43, "Q3_K": 2.62, "Q6_K": 1.38, "IQ4_NL": 2.0, "IQ4_XS": 2.12}
"""The memory of the others, by the file's."""

every_format = pytest.mark.parametrize("name", FORMS)
every_type = pytest.mark.parametrize("precision", EPSILON)


@pytest.fixture(scope="module", autouse=True)
def on_the_cpu() -> Iterator[None]:
    with mx.stream(mx.cpu):
        yield


def tensor(name: str, shape: tuple[int, ...], block_format_name: str) -> TensorInfo:
    """`shape` in the file's order."""
    size = block_format(block_format_name).bytes_for(int(np.prod(shape)))
    return TensorInfo(name, shape, block_format_name, 0, size, Path("model.gguf"))


def magnitudes(packed: Packed) -> np.ndarray:
    """|scale| x greatest code + |bias| of each weight's group: what rounding goes by."""
    scales, biases = (np.abs(np.array(array.astype(mx.float32))) for array in (packed.scales, packed.biases))
    return np.repeat(scales * (2**packed.form.bits - 1) + biases, 32, axis=-1)


# The same weights ----------------------------------------------------------------------------------------------------


@every_format
def test_every_exact_format_is_dequantised_by_mlx_to_the_bit(name: str, tmp_path: Path) -> None:
    for columns in row_lengths(name):
        weights = random_weights(tmp_path / f"{columns}.gguf", name, (7, columns), seed=columns)
        found = dequantized(Packer(mx.float32).pack(weights, X))
        if FORMS[name].exact:
            assert (found == weights.decode("x")).all()
        else:
            assert found.shape == weights.shape("x")


@every_type
@pytest.mark.parametrize("name", [name for name in EXACT if name != "MXFP4"])
def test_16_bit_scales_and_biases_round_once_and_nothing_else_does(name: str, precision: str, tmp_path: Path) -> None:
    weights = random_weights(tmp_path / "x.gguf", name, (16, 768))
    packed, wide = (Packer(dtype).pack(weights, X) for dtype in (getattr(mx, precision), mx.float32))
    assert (packed.scales.dtype, packed.biases.dtype) == (getattr(mx, precision),) * 2
    assert mx.array_equal(packed.weight, wide.weight)
    error = np.abs(dequantized(packed).astype(np.float64) - weights.decode("x"))
    assert (error <= EPSILON[precision] * magnitudes(wide)).all()


@pytest.mark.parametrize("name", ["Q4_0", "Q5_0", "Q8_0", "Q3_K", "IQ4_NL", "MXFP4"])
def test_float16_holds_the_scales_of_simple_formats_as_they_are(name: str, tmp_path: Path) -> None:
    weights = random_weights(tmp_path / "x.gguf", name, (16, 768))
    assert (dequantized(Packer(mx.float16).pack(weights, X)) == weights.decode("x")).all()


@pytest.mark.parametrize("name", ["Q4_0", "Q5_0", "Q8_0", "Q3_K", "IQ4_NL", "IQ4_XS"])
def test_a_weight_of_zero_stays_zero_even_where_scales_are_tiny(name: str, tmp_path: Path) -> None:
    layout = block_layout(name)
    blocks = np.random.default_rng(0).integers(0, 256, (8, 3 * layout.fields.itemsize), np.uint8)
    blocks.reshape(-1).view(layout.fields)["d"] = np.float16(3e-7)  # subnormal
    codes = layout.unpack(blocks).codes
    weights = written(tmp_path / "x.gguf", {"x": (name, blocks)})
    for dtype in (mx.float16, mx.bfloat16):
        found = dequantized(Packer(dtype).pack(weights, X))
        assert (found[weights.decode("x") == 0] == 0).all()
        assert (found[codes == 0] == 0).all()


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_any_rows_and_any_shape_in_any_pieces_are_the_same_weights(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    name = data.draw(st.sampled_from(list(FORMS)))
    outer = data.draw(st.sampled_from([(), (1,), (3,)]))
    rows = data.draw(st.integers(1, 9))
    columns = data.draw(st.sampled_from(row_lengths(name)))
    first = data.draw(st.integers(0, rows - 1))
    chosen = data.draw(st.none() | st.builds(slice, st.just(first), st.integers(first + 1, rows)))
    folder = tmp_path_factory.mktemp("any")
    weights = random_weights(folder / "x.gguf", name, (*outer, rows, columns))
    with pytest.MonkeyPatch.context() as patch:
        whole = dequantized(Packer(mx.float32).pack(weights, X))
        patch.setattr(packing, "WEIGHTS_AT_ONCE", data.draw(st.sampled_from([1, 700, 1 << 22])))
        patch.setattr(packing, "FLOATS_AT_ONCE", data.draw(st.sampled_from([1, 700, 1 << 20])))
        found = dequantized(Packer(mx.float32).pack(weights, Part("x", chosen)))
    expected = whole if chosen is None else whole[..., chosen, :]
    assert found.shape == expected.shape
    assert (found == expected).all()
    if FORMS[name].exact:
        assert (whole == weights.decode("x")).all()


# Quantised anew ------------------------------------------------------------------------------------------------------


@every_type
@pytest.mark.parametrize("name", ANEW)
def test_what_is_quantised_anew_is_off_by_half_a_step_at_most(name: str, precision: str, tmp_path: Path) -> None:
    weights = random_weights(tmp_path / "x.gguf", name, (64, 768))
    packed = Packer(getattr(mx, precision)).pack(weights, X)
    error = np.abs(dequantized(packed).astype(np.float64) - weights.decode("x"))
    steps = np.repeat(np.array(packed.scales.astype(mx.float32)), 32, axis=-1)
    assert (error <= 0.5001 * steps).all()


@pytest.mark.parametrize("name", ANEW)
def test_what_quantising_anew_changes_is_as_documented_and_less_than_by_mlx(name: str, tmp_path: Path) -> None:
    weights = random_weights(tmp_path / "x.gguf", name, (64, 768))
    values = weights.decode("x").astype(np.float64)
    for dtype, most in zip((mx.float16, mx.bfloat16), MEASURED[name], strict=True):
        codes, *scales = mx.quantize(mx.array(weights.decode("x")).astype(dtype), 32, 8)
        theirs = mx.dequantize(codes, *(array.astype(mx.float32) for array in scales), 32, 8)
        ours, by_mlx = (
            np.sqrt(((found - values) ** 2).mean() / (values**2).mean())
            for found in (dequantized(Packer(dtype).pack(weights, X)), np.array(theirs))
        )
        assert ours < by_mlx
        assert ours < most


@given(
    d=st.floats(-60.0, 60.0, width=16),
    dmin=st.floats(-60.0, 60.0, width=16),
    precision=st.sampled_from([*EPSILON]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_groups_of_any_range_and_any_offset_are_off_by_half_a_step(
    d: float, dmin: float, precision: str, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    layout = block_layout("Q2_K")
    blocks = np.random.default_rng(seed).integers(0, 256, (3, 2 * layout.fields.itemsize), np.uint8)
    fields = blocks.reshape(-1).view(layout.fields)
    fields["d"], fields["dmin"] = d, dmin
    weights = written(tmp_path_factory.mktemp("any") / "x.gguf", {"x": ("Q2_K", blocks)})
    packed = Packer(getattr(mx, precision)).pack(weights, X)
    error = np.abs(dequantized(packed).astype(np.float64) - weights.decode("x"))
    steps = np.repeat(np.array(packed.scales.astype(mx.float32)), 32, axis=-1)
    assert (error <= 0.5001 * steps + 2.0**-21 * magnitudes(packed)).all()  # the latter is float32's own rounding


# Damaged files -------------------------------------------------------------------------------------------------------


@given(name=st.sampled_from(GROUPED), precision=st.sampled_from([*EPSILON]), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_any_bytes_are_packed_without_a_warning_and_stay_what_they_are(
    name: str, precision: str, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    layout = block_layout(name)
    blocks = np.random.default_rng(seed).integers(0, 256, (16, 2 * layout.fields.itemsize), np.uint8)
    weights = written(tmp_path_factory.mktemp("any") / "x.gguf", {"x": (name, blocks)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = dequantized(Packer(getattr(mx, precision)).pack(weights, X))
    expected = weights.decode("x")
    if name in ANEW:  # one broken weight breaks its group
        expected, found = expected.reshape(-1, 32).sum(-1), found.reshape(-1, 32).sum(-1)
    if name != "MXFP4":
        assert not np.isfinite(found[~np.isfinite(expected)]).any()
    if precision == "float32" and name in EXACT and name != "MXFP4":
        finite = np.isfinite(expected)
        assert (found[finite] == expected[finite]).all()


def test_scales_beyond_float16_become_infinite(tmp_path: Path) -> None:
    layout = block_layout("Q4_K")
    blocks = random_blocks("Q4_K", (2, 256), np.random.default_rng(0), std=0.02)
    blocks.reshape(-1).view(layout.fields)["d"] = np.float16(60_000)
    weights = written(tmp_path / "x.gguf", {"x": ("Q4_K", blocks)})
    assert not np.isfinite(np.array(Packer(mx.float16).pack(weights, X).scales)).all()
    assert (dequantized(Packer(mx.float32).pack(weights, X)) == weights.decode("x")).all()


def test_every_exponent_of_mxfp4_is_ggmls_but_the_one_that_is_no_number(tmp_path: Path) -> None:
    layout = block_layout("MXFP4")
    blocks = np.zeros((256, layout.fields.itemsize), np.uint8)
    fields = blocks.reshape(-1).view(layout.fields)
    fields["e"], fields["qs"] = np.arange(256), np.arange(16) * 17  # every code twice
    weights = written(tmp_path / "x.gguf", {"x": ("MXFP4", blocks)})
    found, expected = dequantized(Packer(mx.float32).pack(weights, X)), weights.decode("x")
    assert (found[:255] == expected[:255]).all()
    assert (found[255] == found[254]).all()  # MLX's own reading has NaN where weights are 0
    assert not np.isnan(found).any()


# Memory --------------------------------------------------------------------------------------------------------------


def test_every_block_format_has_a_form() -> None:
    assert set(FORMS) == set(BLOCK_LAYOUTS)


@every_format
def test_memory_is_within_an_eighth_of_the_file_or_as_documented(name: str) -> None:
    matrix = tensor("x", (768, 64), name)
    factor = packed_bytes([matrix]) / matrix.size_bytes
    if name in NEAR_THE_FILE:
        assert factor <= 1.12
    else:
        assert FACTORS[name] - 0.01 < factor <= FACTORS[name]


@every_format
@pytest.mark.parametrize(("precision", "scale_bytes"), [("float16", 2), ("float32", 4)])
def test_memory_is_reckoned_from_shapes_as_it_comes_out(
    name: str, precision: str, scale_bytes: int, tmp_path: Path
) -> None:
    weights = random_weights(tmp_path / "x.gguf", name, (3, 5, 256))
    packed = Packer(getattr(mx, precision)).pack(weights, X)
    assert packed.nbytes == packed_bytes(weights.header.tensors.values(), scale_bytes=scale_bytes)


def test_a_format_that_is_kept_takes_what_it_takes_in_the_file() -> None:
    matrices = [tensor("x", (768, 64), name) for name in ("Q6_K", "Q4_K")]
    kept = packed_bytes(matrices, kept={"Q6_K"})
    assert kept == matrices[0].size_bytes + packed_bytes([matrices[1]])


def test_vectors_count_as_in_the_file() -> None:
    assert packed_bytes([tensor("norm", (64,), "F32"), tensor("odd", (32,), "Q8_0")]) == 64 * 4 + 34


def test_memory_cannot_be_reckoned_for_a_format_without_a_form() -> None:
    with pytest.raises(UnsupportedModelError, match=r"IQ1_S in tensor `blk\.0\.x`"):
        packed_bytes([tensor("blk.0.x", (256, 4), "IQ1_S")])


@pytest.mark.parametrize("name", ["Q4_1", "Q5_0", "Q4_K", "Q8_0", "Q6_K", "IQ4_XS", "MXFP4", "F16"])
def test_while_loading_no_more_than_one_tensor_is_there_twice(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit in ("WEIGHTS_AT_ONCE", "FLOATS_AT_ONCE"):
        monkeypatch.setattr(packing, limit, 1 << 14)  # pieces that are small beside these tensors
    tensors = {key: (name, random_blocks(name, (512, 1024), np.random.default_rng(0), 0.02)) for key in "abc"}
    weights, packer = written(tmp_path / "x.gguf", tensors), Packer(mx.float16)
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    packed = [packer.pack(weights, Part(key)) for key in tensors]
    size, slack = sum(each.nbytes for each in packed), 1 << 15
    assert mx.get_active_memory() - before <= size + slack
    assert mx.get_peak_memory() - before <= size + weights.raw("a").nbytes + slack


def test_forms_and_what_they_take_are_known_without_mlx_or_numpy() -> None:
    script = "import sys, inference_mlx.forms; print({'mlx', 'mlx.core', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# What cannot be packed -----------------------------------------------------------------------------------------------


def test_a_vector_is_no_matrix(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`x` is no matrix"):
        Packer(mx.float32).pack(random_weights(tmp_path / "x.gguf", "F32", (64,)), X)


def test_a_closed_file_is_not_packed(tmp_path: Path) -> None:
    weights = random_weights(tmp_path / "x.gguf", "Q8_0", (4, 64))
    weights.close()
    with pytest.raises(ModelClosedError, match="closed before `x` was read"):
        Packer(mx.float32).pack(weights, X)


def test_packed_weights_outlive_the_file(tmp_path: Path) -> None:
    weights = random_weights(tmp_path / "x.gguf", "F32", (4, 64))
    expected, packed = weights.decode("x"), Packer(mx.float32).pack(weights, X)
    weights.close()
    (tmp_path / "x.gguf").unlink()
    assert (dequantized(packed) == expected).all()
