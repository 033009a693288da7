"""Layers whose weights stay quantised: the C kernel multiplies what the block formats say, rounded as it promises."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from inference.gguf.blocks import Groups

torch = pytest.importorskip("torch")

from inference_rocm.cpu.bfloat16 import Bfloat16Linear  # noqa: E402
from inference_rocm.cpu.kernels import Kernels  # noqa: E402 - after torch is known to be there
from inference_rocm.forms import PACKED  # noqa: E402
from kernel_definitions import (  # noqa: E402
    decoded,
    inputs_of,
    kept,
    kernels_on,
    layout_of,
    packed,
    random_activations,
    random_weights,
    require_close,
)

COUNTS = [1, 2, 3, 7, 16, 17, 50]
FLOAT32 = 1e-5
"""Share of the largest: sums in float32."""

every_format = pytest.mark.parametrize("name", PACKED)


@pytest.fixture(scope="module")
def kernels() -> Kernels:
    return kernels_on()


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def changed(weights: Groups, row: int, value: float, field: str = "scales") -> Groups:
    """The weights with another scale in one group of a row."""
    values = getattr(weights, field).copy()
    values[row, 1] = value
    return replace(weights, **{field: values})


# Finite -------------------------------------------------------------------------------------------------------------


@every_format
def test_a_form_has_the_formats_groups_and_offsets_and_room_for_its_codes(name: str) -> None:
    form, layout = PACKED[name], layout_of(name)
    assert (form.group, form.has_offsets) == (layout.group, layout.has_offsets)
    codes = len(layout.codebook) if layout.codebook is not None else len(range(*layout.code_range)) + 1
    assert codes <= 2**form.bits


@every_format
@pytest.mark.parametrize("biased", [False, True])
def test_rows_of_any_number_are_multiplied_and_added(name: str, biased: bool, kernels: Kernels) -> None:
    for outputs in (5, 41, 48):
        weights = random_weights(name, outputs, inputs_of(name), seed=outputs)
        bias = torch.randn(outputs) if biased else None
        layer, added = packed(kernels, name, weights, bias), 0.0 if bias is None else bias.numpy()
        for count in COUNTS:
            rows, rounded = random_activations(count, inputs_of(name), seed=count)
            wanted = rounded @ kept(weights).T + added
            require_close(layer(rows), wanted, FLOAT32)
            stream = torch.randn(count, outputs)
            wanted += stream.numpy()
            layer.add_to(stream, rows)
            require_close(stream, wanted, FLOAT32)


@every_format
def test_rounding_takes_less_than_one_in_a_hundred(name: str, kernels: Kernels) -> None:
    weights = random_weights(name, 200, inputs_of(name))
    rows = torch.randn(50, inputs_of(name))
    wanted = rows.numpy().astype(np.float64) @ decoded(weights).T
    difference = packed(kernels, name, weights)(rows).numpy() - wanted
    assert np.linalg.norm(difference) < 0.01 * np.linalg.norm(wanted)


@every_format
def test_ones_on_the_diagonal_give_every_weight_back(name: str, kernels: Kernels) -> None:
    weights = random_weights(name, 100, inputs_of(name))
    found = packed(kernels, name, weights)(torch.eye(inputs_of(name))).numpy().T
    np.testing.assert_allclose(found, kept(weights), rtol=1e-6, atol=1e-6 * np.abs(kept(weights)).max())
    np.testing.assert_allclose(found, decoded(weights), rtol=1e-3, atol=1e-3 * np.abs(kept(weights)).max())


@pytest.mark.parametrize("cuts", [[7], [16, 32], [1, 2, 3, 50], [30, 31, 47], [15, 17]])
@pytest.mark.parametrize("name", ["Q4_K", "Q6_K"])
def test_pieces_that_end_within_a_tile_make_the_same_layer(name: str, cuts: list[int], kernels: Kernels) -> None:
    weights = random_weights(name, 61, inputs_of(name))
    rows, _ = random_activations(5, inputs_of(name))
    one, other = packed(kernels, name, weights), packed(kernels, name, weights, cuts=cuts)
    assert torch.equal(one(rows), other(rows))
    assert one.size_bytes == other.size_bytes


@every_format
def test_memory_is_what_the_form_says(name: str, kernels: Kernels) -> None:
    inputs = inputs_of(name)
    assert (
        packed(kernels, name, random_weights(name, 64, inputs)).size_bytes
        == 64 * inputs * PACKED[name].bytes_per_weight
    )


@pytest.mark.parametrize("inputs", [8192, 32768])
def test_long_rows_go_through_the_cache_some_at_a_time(inputs: int, kernels: Kernels) -> None:
    weights = random_weights("Q4_0", 40, inputs)
    rows, rounded = random_activations(55, inputs)
    layer, stream = packed(kernels, "Q4_0", weights), torch.ones(55, 40)
    require_close(layer(rows), rounded @ kept(weights).T, FLOAT32)
    layer.add_to(stream, rows)
    require_close(stream, rounded @ kept(weights).T + 1, FLOAT32)


@every_format
def test_zeros_stay_zeros(name: str, kernels: Kernels) -> None:
    weights, bias = random_weights(name, 21, inputs_of(name)), torch.randn(21)
    rows, _ = random_activations(3, inputs_of(name))
    assert torch.equal(packed(kernels, name, weights, bias)(torch.zeros_like(rows)), bias.expand(3, -1))
    weights.scales[:] = 0
    if weights.offsets is not None:
        weights.offsets[:] = 0
    assert torch.equal(packed(kernels, name, weights)(rows), torch.zeros(3, 21))


# Damaged, or of extreme size ----------------------------------------------------------------------------------------


@every_format
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("count", [1, 7, 16])
def test_an_activation_that_is_not_finite_damages_its_own_row_alone(
    name: str, value: float, count: int, kernels: Kernels
) -> None:
    layer = packed(kernels, name, random_weights(name, 41, inputs_of(name)))
    rows, _ = random_activations(count, inputs_of(name))
    sound = layer(rows)
    rows[count // 2, 70] = value
    found = layer(rows)
    assert not found[count // 2].isfinite().any()
    others = torch.arange(count) != count // 2
    assert torch.equal(found[others], sound[others])


@every_format
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_scale_that_is_not_finite_damages_its_own_output_alone(name: str, value: float, kernels: Kernels) -> None:
    weights = random_weights(name, 41, inputs_of(name))
    rows, _ = random_activations(7, inputs_of(name))
    sound, others = packed(kernels, name, weights)(rows), torch.arange(41) != 18
    for field in ("scales", "offsets") if PACKED[name].has_offsets else ("scales",):
        found = packed(kernels, name, changed(weights, 18, value, field))(rows)
        assert not found[:, 18].isfinite().any()
        assert torch.equal(found[:, others], sound[:, others])


@every_format
def test_a_layer_of_nothing_but_damaged_scales_gives_nothing_finite(name: str, kernels: Kernels) -> None:
    weights = random_weights(name, 5, inputs_of(name))
    weights.scales[:] = np.nan
    rows, _ = random_activations(3, inputs_of(name))
    assert not packed(kernels, name, weights)(rows).isfinite().any()


@every_format
def test_rows_of_very_different_sizes_share_a_matrix(name: str, kernels: Kernels) -> None:
    """The greatest do not overflow, and those below keep their precision down to a hundred millionth of them."""
    sizes = np.logspace(-30, 4, 50, dtype=np.float32)[:, None]
    weights = random_weights(name, 50, inputs_of(name))
    weights = replace(
        weights,
        scales=weights.scales / np.abs(weights.scales).max() * sizes,
        offsets=None if weights.offsets is None else weights.offsets / np.abs(weights.offsets).max() * sizes,
    )
    rows, rounded = random_activations(17, inputs_of(name))
    found, wanted = packed(kernels, name, weights)(rows), rounded @ decoded(weights).T
    require_close(found, wanted, 1e-3)
    for output in np.flatnonzero(sizes > 1e-4):
        require_close(found[:, output], wanted[:, output], 1e-3)


@pytest.mark.parametrize("name", ["Q4_0", "Q4_K", "Q6_K"])
@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_activations_of_extreme_size_are_multiplied_like_any_others(name: str, size: float, kernels: Kernels) -> None:
    weights = random_weights(name, 20, inputs_of(name))
    rows, rounded = random_activations(7, inputs_of(name))
    found = packed(kernels, name, weights)(rows * size).double() / size
    require_close(found, rounded @ kept(weights).T, FLOAT32)


@every_format
@pytest.mark.parametrize("size", [1e-36, 1e-38, 1e-41, 1e-45])
def test_activations_too_small_for_a_scale_of_their_own_are_nearly_zero(
    name: str, size: float, kernels: Kernels
) -> None:
    layer = packed(kernels, name, random_weights(name, 20, inputs_of(name)))
    found = layer(torch.randn(7, inputs_of(name)) * size)
    assert found.abs().max() < 1e-30


@pytest.mark.parametrize("outputs", [1, 32, 75])
@pytest.mark.parametrize("inputs", [2, 46, 576])
def test_a_bfloat16_layer_is_its_definition(outputs: int, inputs: int, kernels: Kernels) -> None:
    weight, bias = torch.randn(outputs, inputs).bfloat16(), torch.randn(outputs)
    plain, biased = (Bfloat16Linear(kernels, weight.split(20), outputs, inputs, part) for part in (None, bias))
    for count in [*range(1, 18), 300]:
        rows = torch.randn(count, inputs)
        wanted = rows.bfloat16().double() @ weight.double().t()
        require_close(plain(rows), wanted.numpy(), 1e-5)
        require_close(biased(rows), (wanted + bias).numpy(), 1e-5)
        stream = torch.ones(count, outputs)
        biased.add_to(stream, rows)
        require_close(stream, (wanted + bias + 1).numpy(), 1e-5)


def test_a_bfloat16_layer_passes_on_what_is_not_finite(kernels: Kernels) -> None:
    rows = torch.randn(9, 64)
    rows[3, 7] = torch.nan
    finite = Bfloat16Linear(kernels, [torch.randn(40, 64)], 40, 64, None)(rows).isfinite().all(dim=1)
    assert finite.tolist() == [row != 3 for row in range(9)]
