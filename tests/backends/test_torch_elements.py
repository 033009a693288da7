"""What lies between the layers, in C: norms, activation functions, heads and their places, the greatest logit. Each
gives what PyTorch's own operations give."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from inference_rocm.cpu.kernels import Kernels  # noqa: E402 - after torch is known to be there
from kernel_definitions import kernels_on, turned  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

from inference.gguf.architectures import Activation  # noqa: E402

LENGTHS = [1, 15, 16, 17, 64, 576, 1000]
NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def kernels() -> Kernels:
    return kernels_on()


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


# Norms ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("count", [1, 5, 16, 50])
def test_norms_are_pytorchs(length: int, count: int, kernels: Kernels) -> None:
    rows, weight = torch.randn(count, length), torch.rand(length)
    expected = F.rms_norm(rows, (length,), weight, 1e-5)
    torch.testing.assert_close(kernels.rms_norm(rows, weight, 1e-5), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("place", [3, 38])
def test_a_row_that_is_not_finite_has_no_finite_norm(value: float, place: int, kernels: Kernels) -> None:
    rows = torch.randn(3, 40)
    rows[1, place] = value
    out = kernels.rms_norm(rows, torch.ones(40), 1e-5)
    assert out[1, place].isnan()
    if value != value:
        assert out[1].isnan().all()
    assert out[[0, 2]].isfinite().all()


# Activation functions -----------------------------------------------------------------------------------------------


def activated(gate: Tensor, up: Tensor, activation: Activation) -> Tensor:
    if activation == "silu":
        return F.silu(gate) * up
    if activation == "gelu":
        return F.gelu(gate, approximate="tanh") * up
    gate, up = gate.clamp(max=7), up.clamp(-7, 7)
    return gate * torch.sigmoid(1.702 * gate) * (up + 1)


every_activation = pytest.mark.parametrize("activation", ["silu", "gelu", "clamped_swiglu"])


@every_activation
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("count", [1, 5, 16, 50])
def test_activation_functions_are_pytorchs(activation: Activation, length: int, count: int, kernels: Kernels) -> None:
    gate_up = torch.randn(count, 2 * length) * 5
    expected = activated(gate_up[:, :length], gate_up[:, length:], activation)
    torch.testing.assert_close(kernels.gate(gate_up, activation), expected, rtol=1e-5, atol=1e-5)


@every_activation
def test_activation_functions_are_pytorchs_from_end_to_end(activation: Activation, kernels: Kernels) -> None:
    gate = torch.cat([torch.linspace(-200, 200, 40001), torch.logspace(-30, 30, 1000), -torch.logspace(-30, 30, 1000)])
    expected = activated(gate.double(), torch.ones(len(gate), dtype=torch.float64), activation).float()
    found = kernels.gate(torch.cat([gate, torch.ones_like(gate)])[None], activation)[0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@every_activation
@pytest.mark.parametrize("side", [0, 20])
def test_what_is_no_number_is_passed_on(activation: Activation, side: int, kernels: Kernels) -> None:
    gate_up = torch.randn(3, 40)
    gate_up[1, side + 17] = NAN
    found = kernels.gate(gate_up, activation)
    assert found[1, 17].isnan()
    assert found.isnan().sum() == 1


# Heads ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_norms", [False, True])
@pytest.mark.parametrize(
    ("length", "turning"), [(16, 16), (24, 8), (40, 40), (64, 0), (80, 32), (104, 104), (256, 128)]
)
@pytest.mark.parametrize(("tokens", "heads", "kv_heads"), [(1, 3, 3), (5, 6, 2), (16, 4, 1), (37, 8, 4)])
def test_heads_are_normalised_turned_and_put_into_their_places(
    with_norms: bool, length: int, turning: int, tokens: int, heads: int, kv_heads: int, kernels: Kernels
) -> None:
    slots, capacity = 3, 50
    together = torch.randn(tokens, (heads + 2 * kv_heads) * length)
    keys, values = (torch.full((slots, kv_heads, capacity, length), NAN, dtype=torch.bfloat16) for _ in range(2))
    order = torch.randperm(slots * capacity)[:tokens]
    slot, position = order // capacity, order % capacity
    angles = torch.randn(capacity, turning // 2)
    cos, sin = angles.cos() * 1.2, angles.sin() * 1.2
    norms = (torch.rand(length) + 0.5, torch.rand(length) + 0.5) if with_norms else None
    query = kernels.place_heads(
        together, keys, values, slot, position, (cos, sin) if turning else None, norms, epsilon=1e-5
    )

    parts = together.view(tokens, heads + 2 * kv_heads, length).split([heads, kv_heads, kv_heads], dim=1)
    wanted = [*parts[:2]]
    for i in range(2):
        if norms is not None:
            wanted[i] = F.rms_norm(wanted[i], (length,), norms[i], 1e-5)
        wanted[i] = turned(wanted[i], cos[position], sin[position])
    torch.testing.assert_close(query, wanted[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(keys[slot, :, position].float(), wanted[1], rtol=2**-8, atol=1e-5)
    assert torch.equal(values[slot, :, position], parts[2].bfloat16())
    for memory in (keys, values):
        assert memory.isfinite().sum() == tokens * kv_heads * length, "other places must stay as they are"


def test_values_are_rounded_to_bfloat16_as_pytorch_rounds_them(kernels: Kernels) -> None:
    """Of any size, ties to even; what is not finite stays so, whatever its bits."""
    ties = (torch.arange(0x3F80, 0x4080) << 16 | 0x8000).int().view(torch.float32)
    bits = torch.tensor([0x7F800001, 0x7FFFFFFF, -1, -0x7FFFFF], dtype=torch.int32)
    special = torch.tensor([0.0, -0.0, INF, -INF, 3.4e38, 1e-37])
    numbers = torch.cat([torch.randn(250) * 10.0 ** torch.randint(-30, 31, (250,)), special, bits.view(torch.float32)])
    for row in (ties, numbers[:256], numbers[-256:]):
        together = torch.cat([torch.zeros(2, len(row)), row[None]]).reshape(1, -1)
        keys, values = (torch.zeros(1, 1, 1, len(row), dtype=torch.bfloat16) for _ in range(2))
        first = torch.zeros(1, dtype=torch.int64)
        kernels.place_heads(together, keys, values, first, first, None, None, 1e-5)
        assert torch.equal(values.flatten().nan_to_num(7.0), row.bfloat16().nan_to_num(7.0))
        assert torch.equal(values.flatten().isnan(), row.isnan())


# The greatest logit ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 5, 16, 17, 31, 32, 33, 1000])
def test_the_first_of_the_greatest_is_found_wherever_it_lies(length: int, kernels: Kernels) -> None:
    rows = torch.randint(-9, 9, (300, length)).float()
    rows[0] = -INF
    rows[1:50] = rows[1:50].abs().neg()
    expected = [row.index(max(row)) for row in rows.tolist()]
    assert kernels.argmax(rows).tolist() == expected
    single = torch.eye(length) - 5
    assert kernels.argmax(single).tolist() == [*range(length)]


@pytest.mark.parametrize("length", [5, 33, 64])
def test_the_place_of_what_is_no_number_is_found_before_all_others(length: int, kernels: Kernels) -> None:
    for place in range(length):
        rows = torch.randn(2, length)
        rows[0, place] = NAN
        assert kernels.argmax(rows).tolist() == [place, int(rows[1].argmax())]
