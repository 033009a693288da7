"""How the kernels of the backend `rocm` round to bfloat16, which most GPUs have no instruction for."""

from __future__ import annotations

import os

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("Triton compiles for the GPU here", allow_module_level=True)

from inference_rocm.gpu.device import INTERPRETER  # noqa: E402 - after torch and triton are known to be there
from inference_rocm.gpu.linear import TritonLinear  # noqa: E402
from inference_rocm.gpu.matrix import Matrix  # noqa: E402

ONE = 0x3F800000
"""The bits of 1.0."""


def through_matrix_cores(numbers: torch.Tensor) -> torch.Tensor:
    """Each of them times 1; more than are multiplied as vectors."""
    weights = torch.eye(len(numbers), dtype=torch.bfloat16)
    rows = torch.diag(numbers)
    return torch.diag(TritonLinear(Matrix(weights, None, INTERPRETER, torch.bfloat16))(rows))


def test_numbers_are_rounded_to_the_nearest_and_ties_to_even() -> None:
    tails = [0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF, 0x10000, 0x17FFF, 0x18000, 0x18001]
    bits = torch.tensor([ONE + tail for tail in tails] + [0x7F7F7FFF], dtype=torch.int32)
    numbers = torch.cat([bits.view(torch.float32), -bits.view(torch.float32)])
    assert torch.equal(through_matrix_cores(numbers), numbers.bfloat16().float())


def test_random_numbers_of_any_size_are_rounded_as_pytorch_rounds_them() -> None:
    numbers = torch.randn(200, generator=torch.Generator().manual_seed(1)) * 10.0 ** torch.linspace(-30, 30, 200)
    assert torch.equal(through_matrix_cores(numbers), numbers.bfloat16().float())


@pytest.mark.filterwarnings("ignore:invalid value encountered in matmul")
def test_what_is_too_large_or_no_number_is_so_afterwards() -> None:
    numbers = torch.tensor([float("nan"), float("inf"), -float("inf"), 3.4e38, -3.4e38])
    torch.testing.assert_close(through_matrix_cores(numbers), numbers.bfloat16().float(), equal_nan=True)
