"""Which devices the llama.cpp backend offers, on machines that are not here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from inference_llama_cpp import devices

from inference.hardware import GPU, machine

NVIDIA = GPU("nvidia", "GeForce", 24 * 2**30, False, 0)
AMD = GPU("amd", "Radeon", 16 * 2**30, False, 0)


def build(folder: Path, *libraries: str) -> Path:
    for library in ("llama", "ggml", "ggml-base", "ggml-cpu", *libraries):
        (folder / f"lib{library}.so").touch()
    return folder


def probed(folder: Path | None, *gpus: GPU) -> list[tuple[str, bool, bool]]:
    entries = devices._probed(replace(machine(), gpus=gpus), folder)
    return [(entry.device, entry.available, entry.automatic) for entry in entries]


def test_a_gpu_that_the_build_knows_comes_before_the_cpu(tmp_path: Path) -> None:
    assert probed(build(tmp_path, "ggml-cuda"), NVIDIA) == [("cuda:0", True, True), ("cpu", True, True)]


def test_a_gpu_that_the_build_lacks_comes_last_with_the_command_that_helps(tmp_path: Path) -> None:
    assert probed(build(tmp_path), AMD) == [("cpu", True, True), ("hip:0", False, False)]
    *_, entry = devices._probed(replace(machine(), gpus=(AMD,)), tmp_path)
    assert "without ggml-hip" in entry.reason
    assert entry.fix is not None
    assert "-DGGML_HIP=on" in entry.fix


def test_a_gpu_without_its_driver_is_not_offered(tmp_path: Path) -> None:
    assert probed(build(tmp_path, "ggml-cuda"), replace(NVIDIA, driver=False)) == [
        ("cpu", True, True),
        ("cuda:0", False, False),
    ]


def test_without_the_package_or_its_libraries_nothing_is_available_and_a_cure_is_named(tmp_path: Path) -> None:
    for folder in (None, tmp_path):
        (entry,) = devices._probed(machine(), folder)
        assert not entry.available
        assert entry.fix is not None
        assert "pip install" in entry.fix


@pytest.mark.parametrize(
    ("device", "name"),
    [("cuda:1", "CUDA1"), ("cuda", "CUDA0"), ("hip:0", "ROCm0"), ("metal:0", "MTL0"), ("cpu", None)],
)
def test_devices_have_ggmls_names(device: str, name: str | None) -> None:
    assert devices.ggml_name(device) == name
