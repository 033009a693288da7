"""What lies between the layers, on GPUs, by Triton's interpreter: norms, activation functions, heads and their places.
Each gives what PyTorch's own operations give."""

from __future__ import annotations

import os

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("Triton compiles for the GPU here", allow_module_level=True)

from gpu_elements import (  # noqa: E402 - after torch is known to be there
    CAPACITY,
    NAN,
    TYPES,
    activated,
    require_added,
    require_close,
    require_gated,
    require_normed,
    require_placed,
)
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from inference_rocm.gpu.device import INTERPRETER, Device  # noqa: E402
from inference_rocm.gpu.elements import gate, place_heads, rms_norm  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

from inference.gguf.architectures import Activation  # noqa: E402

LENGTHS = [1, 17, 576, 1000, 4096]
INF = float("inf")
GPUS = [Device(torch.device("cpu"), wave, units=1) for wave in (64, 32)]
"""The interpreter with the blocks that a GPU takes."""
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value):RuntimeWarning")


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


# Norms ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("count", [1, 5])
def test_norms_are_pytorchs(length: int, count: int) -> None:
    require_normed(count, length, torch.float32, torch.float32, INTERPRETER)


@pytest.mark.parametrize("given_type", TYPES)
@pytest.mark.parametrize("out_type", TYPES)
def test_norms_take_and_give_any_float_type(given_type: torch.dtype, out_type: torch.dtype) -> None:
    require_normed(3, 40, given_type, out_type, INTERPRETER)


def test_rows_may_lie_apart_and_be_written_over() -> None:
    wide, weight = torch.randn(3, 100), torch.rand(40)
    before, rows = wide.clone(), wide[:, 20:60]
    wanted = F.rms_norm(rows.double(), (40,), weight.double(), 1e-5)
    assert rms_norm(rows, weight, 1e-5, torch.float32, INTERPRETER, out=rows) is rows
    require_close(wide[:, 20:60], wanted)
    assert torch.equal(wide[:, :20], before[:, :20])
    assert torch.equal(wide[:, 60:], before[:, 60:])


@pytest.mark.parametrize("value", [NAN, INF])
def test_a_row_that_is_not_finite_has_no_finite_norm(value: float) -> None:
    rows = torch.randn(3, 40)
    rows[1, 38] = value
    found = rms_norm(rows, torch.ones(40), 1e-5, torch.float32, INTERPRETER)
    assert found[1, 38].isnan()
    assert found[[0, 2]].isfinite().all()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("with_norm", [False, True])
def test_what_is_added_to_the_stream_is_normalised_and_scaled(with_norm: bool, dtype: torch.dtype) -> None:
    require_added(3, 50, with_norm, dtype, INTERPRETER)


# Activation functions -----------------------------------------------------------------------------------------------


every_activation = pytest.mark.parametrize("activation", ["silu", "gelu", "clamped_swiglu"])


@every_activation
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("device", [INTERPRETER, GPUS[0]], ids=["large blocks", "blocks of a GPU"])
def test_activation_functions_are_pytorchs(activation: Activation, length: int, device: Device) -> None:
    require_gated(activation, 3, length, torch.float32, device)


@every_activation
@pytest.mark.parametrize("dtype", TYPES[1:])
def test_activation_functions_take_and_give_half_types(activation: Activation, dtype: torch.dtype) -> None:
    require_gated(activation, 3, 40, dtype, INTERPRETER)


@every_activation
def test_activation_functions_are_pytorchs_from_end_to_end(activation: Activation) -> None:
    gates = torch.cat([torch.linspace(-200, 200, 4001), torch.logspace(-30, 38, 500), -torch.logspace(-30, 38, 500)])
    wanted = activated(gates.double(), torch.ones(len(gates), dtype=torch.float64), activation)
    found = gate(torch.cat([gates, torch.ones_like(gates)])[None], activation, torch.float32, INTERPRETER)[0]
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-6)


@every_activation
@pytest.mark.parametrize("side", [0, 20])
def test_what_is_no_number_is_passed_on(activation: Activation, side: int) -> None:
    gate_up = torch.randn(3, 40)
    gate_up[1, side + 17] = NAN
    found = gate(gate_up, activation, torch.float32, INTERPRETER)
    assert found[1, 17].isnan()
    assert found.isnan().sum() == 1


# Heads ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_norms", [False, True])
@pytest.mark.parametrize(("length", "turning"), [(16, 16), (24, 8), (40, 40), (64, 0), (80, 32), (256, 128), (96, 96)])
def test_heads_are_normalised_turned_and_put_into_their_places(with_norms: bool, length: int, turning: int) -> None:
    require_placed(2, 6, 2, length, turning, with_norms, INTERPRETER)


@pytest.mark.parametrize("device", GPUS)
@pytest.mark.parametrize(("heads", "kv_heads", "length", "turning"), [(9, 3, 64, 64), (5, 1, 32, 16), (4, 2, 256, 256)])
def test_heads_are_placed_by_blocks_of_any_size(
    heads: int, kv_heads: int, length: int, turning: int, device: Device
) -> None:
    require_placed(3, heads, kv_heads, length, turning, True, device)


@pytest.mark.parametrize("dtype", TYPES[1:])
def test_heads_are_placed_in_half_types(dtype: torch.dtype) -> None:
    require_placed(3, 4, 2, 32, 32, True, INTERPRETER, dtype)


@settings(max_examples=15, deadline=None)
@given(
    tokens=st.integers(1, 3),
    group=st.integers(1, 4),
    kv_heads=st.integers(1, 3),
    half=st.integers(0, 20),
    rest=st.integers(1, 20),
    with_norms=st.booleans(),
)
def test_heads_of_any_shape_are_placed(
    tokens: int, group: int, kv_heads: int, half: int, rest: int, with_norms: bool
) -> None:
    require_placed(tokens, group * kv_heads, kv_heads, 2 * half + rest, 2 * half, with_norms, INTERPRETER)


def test_of_a_row_that_pads_the_others_nothing_is_stored() -> None:
    """Not even in what lies before the first slot."""
    together = torch.randn(3, 4 * 16)
    keys, values = (torch.full((3, 1, CAPACITY, 16), NAN) for _ in range(2))
    slots, positions = torch.tensor([-1, 1, -1], dtype=torch.int32), torch.tensor([0, 3, 5], dtype=torch.int32)
    query = place_heads(together, keys[1:], values[1:], slots, positions, None, None, 1e-5, torch.float32, INTERPRETER)
    assert query.isfinite().all()
    for part, memory in ((together[1, 32:48], keys), (together[1, 48:], values)):
        assert torch.equal(memory[2, 0, 3], part)
        assert memory.isfinite().sum() == 16


def test_heads_are_placed_beyond_two_to_the_31_elements() -> None:
    """Memory that is not touched takes none."""
    keys, values = (torch.empty(10, 1, 2**22, 64, dtype=torch.float16) for _ in range(2))
    together = torch.randn(1, 3 * 64)
    places = torch.tensor([9], dtype=torch.int32), torch.tensor([2**22 - 1], dtype=torch.int32)
    place_heads(together, keys, values, *places, None, None, 1e-5, torch.float32, INTERPRETER)
    assert torch.equal(keys[9, 0, -1], together[0, 64:128].half())
    assert torch.equal(values[9, 0, -1], together[0, 128:].half())


@pytest.mark.parametrize("device", [INTERPRETER, *GPUS])
def test_a_row_alone_gives_the_bits_that_it_gives_in_a_batch(device: Device) -> None:
    together, weight = torch.randn(5, 8 * 32), torch.rand(256)
    angles = torch.randn(CAPACITY, 16)
    tables, norms = (angles.cos(), angles.sin()), (torch.rand(32), torch.rand(32))
    slots, positions = torch.arange(5, dtype=torch.int32), torch.arange(5, 10, dtype=torch.int32)

    def placed(rows: slice) -> list[Tensor]:
        keys, values = torch.zeros(5, 2, CAPACITY, 32), torch.zeros(5, 2, CAPACITY, 32)
        places = slots[rows], positions[rows]
        query = place_heads(together[rows], keys, values, *places, tables, norms, 1e-5, torch.float32, device)
        normed = rms_norm(together[rows], weight, 1e-5, torch.float32, device)
        return [query, keys[rows], values[rows], normed, gate(together[rows], "gelu", torch.float32, device)]

    whole = placed(slice(5))
    alone = [placed(slice(row, row + 1)) for row in range(5)]
    for part, parts in zip(whole, zip(*alone, strict=True), strict=True):
        assert torch.equal(part, torch.cat(parts))
