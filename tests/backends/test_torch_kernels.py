"""The C library: built when it is first wanted, kept, done without where that fails, and right on every CPU."""

from __future__ import annotations

import functools
import logging
import platform
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import inference_rocm.cpu.library as module  # noqa: E402 - after torch is known to be there
from inference_rocm.cpu.bfloat16 import Bfloat16Linear  # noqa: E402
from inference_rocm.cpu.kernels import Kernels  # noqa: E402
from inference_rocm.cpu.library import _library, build, load  # noqa: E402
from inference_rocm.cpu.machine import compiler  # noqa: E402
from inference_rocm.forms import PACKED  # noqa: E402
from kernel_definitions import (  # noqa: E402
    Attending,
    inputs_of,
    kept,
    packed,
    random_activations,
    random_weights,
    require_close,
)
from torch.nn import functional as F  # noqa: E402, N812

from inference.hardware import machine  # noqa: E402

# Every instruction set ------------------------------------------------------------------------------------------------

TARGETS = {
    "x86-64": set(),
    "x86-64-v3": {"avx2", "bmi2", "f16c", "fma"},
    "x86-64-v4": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
}
"""What the compiler calls the levels of x86, and what a CPU needs for each. Beyond them lies the machine's own."""


@pytest.fixture(scope="module", params=TARGETS)
def kernels(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    if platform.machine().lower() not in ("x86_64", "amd64"):
        pytest.skip("the levels are those of x86")
    if lacking := TARGETS[request.param] - set(machine().cpu.features):
        pytest.skip(f"this CPU has no {', '.join(sorted(lacking))}")
    command, to = compiler(), tmp_path_factory.mktemp("kernels") / f"{request.param}.so"
    assert command is not None
    build(command, request.param, to)
    return Kernels(load(to), threads=2)


@pytest.mark.parametrize("name", PACKED)
def test_every_instruction_set_multiplies_every_form(name: str, kernels: Kernels) -> None:
    weights, bias = random_weights(name, 75, inputs_of(name)), torch.randn(75)
    layer = packed(kernels, name, weights, bias, cuts=[19])
    for count in (1, 2, 3, 5, 31, 50):
        rows, rounded = random_activations(count, inputs_of(name), seed=count)
        wanted = rounded @ kept(weights).T + bias.numpy()
        require_close(layer(rows), wanted, 1e-5)
        stream = torch.ones(count, 75)
        layer.add_to(stream, rows)
        require_close(stream, wanted + 1, 1e-5)


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_every_instruction_set_passes_on_what_is_not_finite(name: str, value: float, kernels: Kernels) -> None:
    weights = random_weights(name, 41, inputs_of(name))
    weights.scales[18, 1] = value
    rows, _ = random_activations(8, inputs_of(name))
    rows[5, 70] = value
    finite = packed(kernels, name, weights)(rows).isfinite()
    assert not finite[5].any()
    assert not finite[:, 18].any()
    assert finite.sum() == 7 * 40


@pytest.mark.parametrize("name", ["Q4_0", "Q5_1"])
def test_every_instruction_set_reads_scales_of_every_size(name: str, kernels: Kernels) -> None:
    """Half precision has subnormal numbers at its lower end."""
    weights, inputs = random_weights(name, 64, inputs_of(name)), inputs_of(name)
    for part in (weights.scales, weights.offsets):
        if part is not None:
            part *= 2.0 ** -torch.arange(64)[:, None].numpy() / 2
    found = packed(kernels, name, weights)(torch.eye(inputs)).numpy().T
    # Rounding takes half a step of the stored scales, and that for each of the codes' up to 31 steps.
    lost = 32 * 2.0**-38 * max(abs(part).max() for part in (weights.scales, weights.offsets) if part is not None)
    for wanted, row in zip(kept(weights), found, strict=True):
        assert abs(wanted - row).max() <= 1e-6 * abs(wanted).max() + lost


def test_every_instruction_set_multiplies_bfloat16(kernels: Kernels) -> None:
    torch.manual_seed(0)
    weight, bias, rows = torch.randn(75, 330).bfloat16(), torch.randn(75), torch.randn(31, 330)
    wanted = (rows.bfloat16().double() @ weight.double().T + bias).numpy()
    layer = Bfloat16Linear(kernels, [weight], *weight.shape, bias)
    for count in range(1, 32, 3):
        require_close(layer(rows[:count]), wanted[:count], 1e-5)


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("window", [None, 7, 100])
@pytest.mark.parametrize("length", [24, 64])
def test_every_instruction_set_attends(
    softcap: float | None, window: int | None, length: int, kernels: Kernels
) -> None:
    torch.manual_seed(length)
    attending = Attending(softcap=softcap, window=window, sinks=torch.randn(6))
    keys, values = (torch.randn(3, 2, 160, length).bfloat16() for _ in range(2))
    query = torch.randn(100, 6, length)
    found = attending.by(kernels, query, keys, values, [1] * 100, range(37, 137), span=True)
    require_close(found, attending(query, keys[1], values[1], range(37, 137), span=True), 5e-3)
    found = attending.by(kernels, query[:2], keys, values, [2, 0], [140, 9], span=False)
    for row, (slot, position) in enumerate([(2, 140), (0, 9)]):
        wanted = attending(query[row : row + 1], keys[slot], values[slot], [position], span=False)
        require_close(found[row : row + 1], wanted, 1e-5)


def test_every_instruction_set_has_the_same_elements(kernels: Kernels) -> None:
    torch.manual_seed(0)
    rows, weight = torch.randn(50, 200) * 5, torch.rand(200)
    gate, up = rows.chunk(2, dim=-1)
    torch.testing.assert_close(kernels.rms_norm(rows, weight, 1e-5), F.rms_norm(rows, (200,), weight, 1e-5))
    torch.testing.assert_close(kernels.gate(rows, "silu"), F.silu(gate) * up, rtol=1e-5, atol=1e-5)
    expected = F.gelu(gate, approximate="tanh") * up
    torch.testing.assert_close(kernels.gate(rows, "gelu"), expected, rtol=1e-5, atol=1e-5)
    rows[7, 60] = torch.nan
    rows[9] = 1 + (2 * torch.arange(200) + 1) / 256  # just between two numbers of bfloat16
    assert kernels.argmax(rows).tolist() == rows.argmax(dim=-1).tolist()
    keys, values = (torch.zeros(1, 1, 50, 50, dtype=torch.bfloat16) for _ in range(2))
    places = torch.arange(50)
    kernels.place_heads(rows[:, :150].contiguous(), keys, values, places * 0, places, None, None, 1e-5)
    torch.testing.assert_close(keys[0, 0], rows[:, 50:100].bfloat16(), rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(values[0, 0], rows[:, 100:150].bfloat16(), rtol=0, atol=0)


# Building -------------------------------------------------------------------------------------------------------------


def test_loading_the_library_does_not_make_the_process_flush_denormals() -> None:
    program = (
        "import numpy as np; from inference_rocm.cpu.library import library; assert library();"
        "print(float(np.float32(1e-40) * np.float32(0.5)) > 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_importing_the_module_imports_nothing_heavy() -> None:
    program = "import sys, inference_rocm.cpu.library; print({'torch', 'numpy'}.isdisjoint(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


@pytest.mark.parametrize("trouble", ["no compiler", "a compiler that fails", "a compiler that does not start"])
def test_a_library_that_cannot_be_built_is_told_of_and_done_without(
    trouble: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    commands = {"no compiler": None, "a compiler that fails": "false"}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(module, "compiler", lambda: commands.get(trouble, str(tmp_path / "nothing")))
    with caplog.at_level(logging.WARNING):
        assert _library.__wrapped__() is None
    assert module.INSTEAD in caplog.text


def test_what_the_compiler_says_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(module, "TARGET", "no-such-machine")
    with caplog.at_level(logging.WARNING):
        assert _library.__wrapped__() is None
    assert "no-such-machine" in caplog.text


def test_a_build_is_kept_and_a_cache_that_cannot_be_written_is_done_without(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert _library.__wrapped__() is not None
    (built,) = (tmp_path / "native-inference").iterdir()
    time = built.stat().st_mtime_ns
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "run", None)  # a second build would fail
        assert _library.__wrapped__() is not None
    assert built.stat().st_mtime_ns == time
    kept_build = built.read_bytes()
    monkeypatch.setattr(module, "build", lambda _command, _target, to: to.write_bytes(kept_build))
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert _library.__wrapped__() is not None
    assert len([*tmp_path.glob("native-inference-*/*.so")]) == 1


def test_a_change_of_a_source_or_of_the_machine_makes_another_build(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "one.c").write_text("int one;")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(module, "FOLDER", sources)
    monkeypatch.setattr(module, "build", lambda _command, _target, to: to.touch())
    monkeypatch.setattr(module, "load", lambda built: built)
    first = _library.__wrapped__()
    assert _library.__wrapped__() == first
    (sources / "one.h").write_text("extern int one;")
    second = _library.__wrapped__()
    monkeypatch.setattr(module, "_processor", lambda: "another")
    assert len({first, second, _library.__wrapped__()}) == 3


def test_threads_that_load_at_once_get_the_same_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(module, "_library", functools.cache(_library.__wrapped__))
    with ThreadPoolExecutor(4) as pool:
        found = [*pool.map(lambda _: module.library(), range(4))]
    assert found[0] is not None
    assert all(one is found[0] for one in found)
    assert len([*(tmp_path / "native-inference").iterdir()]) == 1


def test_a_damaged_build_is_built_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(module, "build", lambda _command, _target, to: to.write_bytes(b""))
    assert _library.__wrapped__() is None
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert _library.__wrapped__() is not None
