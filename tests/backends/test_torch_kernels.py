"""The C kernels: each gives what PyTorch's own operations give; where they cannot be built, the reason is told."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import inference_rocm.kernels as module  # noqa: E402 - after torch is known to be there
from inference_rocm.kernels import Kernels, cpu_kernels  # noqa: E402
from inference_rocm.linear import Int4Linear  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812


@pytest.fixture(scope="module")
def kernels() -> Kernels:
    found = cpu_kernels()
    assert found is not None
    return found


@pytest.mark.parametrize(("outputs", "inputs"), [(64, 32), (200, 96), (1024, 576)])
def test_int4_tiles_are_decoded_and_multiplied(outputs: int, inputs: int, kernels: Kernels) -> None:
    torch.manual_seed(outputs)
    codes = torch.randint(0, 16, (outputs, inputs), dtype=torch.uint8)
    scales, zeros = (torch.randn(outputs, inputs // 32).bfloat16() for _ in range(2))
    rows = torch.randn(50, inputs).bfloat16()
    by_torch, by_kernel = Int4Linear(codes, scales, zeros), Int4Linear(codes, scales, zeros, kernels)
    expected = (codes.float() - 8) * scales.float().repeat_interleave(32, 1) + zeros.float().repeat_interleave(32, 1)
    decoded = by_kernel.decoded(slice(0, None), torch.bfloat16)[:, :outputs].t().float()
    torch.testing.assert_close(decoded, expected, rtol=2**-8, atol=2**-8)
    exact = rows.float() @ expected.t()
    for found, wanted in ((by_kernel(rows), exact), (by_torch(rows), exact), (by_kernel(rows[:3]), exact[:3])):
        assert (found.float() - wanted).norm() < 0.01 * wanted.norm()


@pytest.mark.parametrize("capability", ["default", "avx2", "avx512"])
def test_many_rows_are_right_however_the_cpu_packs(capability: str) -> None:
    program = """
import torch
from inference_rocm.linear import Int4Linear
torch.manual_seed(3)
codes = torch.randint(0, 16, (192, 64), dtype=torch.uint8)
scales, zeros = torch.rand(192, 2), torch.randn(192, 2)
rows = torch.randn(90, 64)
weight = (codes.float() - 8) * scales.repeat_interleave(32, 1) + zeros.repeat_interleave(32, 1)
found, wanted = Int4Linear(codes, scales, zeros)(rows), rows @ weight.t()
print(float((found - wanted).norm() / wanted.norm()) < 0.01)
"""
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == "True"


@pytest.mark.parametrize("length", [1, 64, 576, 1000])
def test_norms_are_pytorchs(length: int, kernels: Kernels) -> None:
    rows, weight = torch.randn(5, length), torch.rand(length)
    expected = F.rms_norm(rows, (length,), weight, 1e-5).bfloat16()
    torch.testing.assert_close(kernels.rms_norm(rows, weight, 1e-5), expected, rtol=2**-7, atol=1e-6)


def test_what_is_not_finite_stays_so(kernels: Kernels) -> None:
    rows = torch.tensor([[1.0, float("nan"), 2.0], [1.0, 2.0, 3.0]])
    out = kernels.rms_norm(rows, torch.ones(3), 1e-5)
    assert out[0].isnan().all()
    assert out[1].isfinite().all()


def test_silu_and_multiply_is_pytorchs(kernels: Kernels) -> None:
    gate_up = (torch.randn(3, 300) * 20).bfloat16()
    gate, up = gate_up.float().chunk(2, dim=-1)
    torch.testing.assert_close(kernels.silu_and_multiply(gate_up).float(), F.silu(gate) * up, rtol=2**-7, atol=1e-5)


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("window", [None, 1, 7])
@pytest.mark.parametrize("with_sinks", [False, True])
def test_attention_is_its_definition(
    softcap: float | None, window: int | None, with_sinks: bool, kernels: Kernels
) -> None:
    torch.manual_seed(1)
    heads, kv_heads, length, capacity = 6, 2, 48, 40
    keys, values = (torch.randn(5, kv_heads, capacity, length).bfloat16() for _ in range(2))
    query = torch.randn(3, heads, length).bfloat16()
    slots, positions = torch.tensor([4, 0, 2]), torch.tensor([0, 39, 17])
    sinks = torch.randn(heads) if with_sinks else None
    found = kernels.attend(
        query, keys, values, slots, positions, 40, scale=0.2, softcap=softcap, window=window, sinks=sinks
    )
    for row, (slot, position) in enumerate(zip(slots.tolist(), positions.tolist(), strict=True)):
        first = max(0, position + 1 - window) if window else 0
        for head in range(heads):
            k, v = (part[slot, head * kv_heads // heads, first : position + 1].float() for part in (keys, values))
            scores = k @ query[row, head].float() * 0.2
            scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
            scores = scores if sinks is None else torch.cat([scores, sinks[head : head + 1]])
            shares = torch.softmax(scores, dim=0)[: len(k)]
            expected = (shares[:, None] * v).sum(0)
            torch.testing.assert_close(found[row].view(heads, length)[head].float(), expected, rtol=0.01, atol=0.01)


def test_loading_them_does_not_make_the_process_flush_denormals() -> None:
    program = (
        "import numpy as np; from inference_rocm.kernels import cpu_kernels; assert cpu_kernels();"
        "print(float(np.float32(1e-40) * np.float32(0.5)) > 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


@pytest.mark.parametrize("trouble", ["no compiler", "a compiler that fails"])
def test_kernels_that_cannot_be_built_are_told_and_done_without(
    trouble: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(module, "compiler", lambda: None if trouble == "no compiler" else "false")
    with caplog.at_level(logging.WARNING):
        assert cpu_kernels.__wrapped__() is None
    assert "PyTorch's own operations" in caplog.text


def test_a_build_is_kept_and_a_cache_that_cannot_be_written_is_done_without(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cpu_kernels.__wrapped__() is not None
    (library,) = (tmp_path / "native-inference").glob("*.so")
    built = library.stat().st_mtime_ns
    monkeypatch.setattr(subprocess, "run", None)  # a second build would fail
    assert cpu_kernels.__wrapped__() is not None
    assert library.stat().st_mtime_ns == built
    monkeypatch.undo()
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert cpu_kernels.__wrapped__() is not None
