"""Which AMD GPUs the backend `rocm` offers, on machines that are not here: a directory stands for "/"."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
from inference_rocm import devices
from inference_rocm.devices import RocmDevice, availabilities, chosen, device_for

from inference.errors import BackendUnavailableError
from inference.options import LoadOptions
from inference.types import Availability

GIB = 2**30
PCI = "sys/bus/pci/devices"
KFD = "sys/class/kfd/kfd/topology/nodes"
ROCM = "__version__ = '2.13.0+rocm7.2'\ncuda: Optional[str] = None\nhip: Optional[str] = '7.2.53211-123eb5128'\n"
CUDA = "__version__ = '2.13.0+cu130'\ncuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n"
CPU = "__version__ = '2.13.0+cpu'\ncuda: Optional[str] = None\nhip: Optional[str] = None\nrocm: Optional[str] = None\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine without GPUs, whose driver is loaded."""
    put(tmp_path / "root", {"dev/kfd": ""})
    return tmp_path / "root"


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is installed: by default all that is needed."""
    folder = tmp_path / "packages"
    put(folder, {f"{name}/__init__.py": "" for name in ("torch", "triton", "numpy", "tokenizers")})
    put(folder, {"torch/version.py": ROCM, "triton/backends/amd/compiler.py": ""})
    put(folder, {"triton/__init__.py": "__version__ = '3.10.0+git12345678'"})

    def find_spec(name: str) -> ModuleSpec | None:
        file = folder / name / "__init__.py"
        return ModuleSpec(name, None, origin=str(file)) if file.exists() else None

    monkeypatch.setattr("importlib.util.find_spec", find_spec)
    return folder


def put(root: Path, files: dict[str, object]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")


def put_gpu(
    root: Path, node: int, target: int, *, name: str = "", total: int = 24, used: int = 1, render: bool = True
) -> None:
    """A GPU whose memory is counted in GiB; its bus has the number of its node."""
    folder, minor = f"{PCI}/0000:{node:02x}:00.0", 128 + node
    put(root, {f"{folder}/vendor": "0x1002", f"{folder}/device": "0x744c", f"{folder}/class": "0x030000"})
    put(root, {f"{folder}/mem_info_vram_total": total * GIB, f"{folder}/mem_info_vram_used": used * GIB})
    facts = {"simd_count": 8, "gfx_target_version": target, "location_id": node << 8, "drm_render_minor": minor}
    put(root, {f"{KFD}/{node}/properties": "\n".join(f"{key} {value}" for key, value in facts.items())})
    if name:
        put(root, {f"{folder}/product_name": name})
    if render:
        put(root, {f"dev/dri/renderD{minor}": ""})


def entries(root: Path, **environment: str) -> list[Availability]:
    return availabilities(root, environment, "linux")


def states(root: Path, **environment: str) -> list[tuple[str, bool, bool]]:
    return [(each.device, each.available, each.automatic) for each in entries(root, **environment)]


# PyTorch -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "version"), [(ROCM, "7.2.53211-123eb5128"), (CUDA, None), (CPU, None), ("", None)])
def test_what_torch_is_built_for_is_read_from_its_version_file(packages: Path, text: str, version: str | None) -> None:
    put(packages, {"torch/version.py": text})
    assert devices.rocm_torch() == version


def test_without_torch_or_its_version_file_it_is_not_built_for_rocm(packages: Path) -> None:
    (packages / "torch/version.py").unlink()
    assert devices.rocm_torch() is None
    (packages / "torch/__init__.py").unlink()
    assert devices.rocm_torch() is None


def test_looking_for_devices_imports_neither_torch_nor_triton() -> None:
    script = (
        "import sys; from inference_rocm.devices import *; availabilities(); rocm_torch(); devices();"
        "print([name for name in ('torch', 'triton', 'numpy') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("missing", "files", "reason", "fix"),
    [
        (["torch/__init__.py"], {}, "torch is not installed", "--index-url https://download.pytorch.org/whl/rocm"),
        ([], {"torch/version.py": CPU}, "torch 2.13.0+cpu is built for the CPU alone", "/rocm"),
        ([], {"torch/version.py": CUDA}, "torch 2.13.0+cu130 is built for NVIDIA's CUDA 13.0", "/rocm"),
        (["triton/__init__.py"], {}, "triton, which comes with a torch for ROCm, is not installed", "/rocm"),
        (["triton/backends/amd/compiler.py"], {}, "triton cannot compile for AMD GPUs", "--force-reinstall"),
        (["tokenizers/__init__.py"], {}, "the package tokenizers is not installed", "native-inference[gguf]"),
    ],
)
def test_what_software_is_missing_is_said_with_its_cure(
    root: Path, packages: Path, missing: list[str], files: dict[str, object], reason: str, fix: str
) -> None:
    put_gpu(root, 1, 110000)
    for name in missing:
        (packages / name).unlink()
        if name.startswith("triton/backends"):
            (packages / name).parent.rmdir()
    put(packages, files)
    (entry,) = entries(root)
    assert (entry.device, entry.available, entry.automatic) == ("rocm:0", False, False)
    assert reason in entry.reason
    assert fix in str(entry.fix)


# GPUs ----------------------------------------------------------------------------------------------------------------


def test_a_card_is_chosen_by_itself(root: Path, packages: Path) -> None:
    put_gpu(root, 1, 110000, name="Radeon RX 7900 XTX")
    (entry,) = entries(root)
    assert (entry.device, entry.available, entry.automatic) == ("rocm:0", True, True)
    assert entry.description == "Radeon RX 7900 XTX, gfx1100"
    assert entry.memory_bytes == 24 * GIB
    assert "ROCm 7.2.53211" in entry.reason


def test_a_gpu_in_the_processor_is_used_only_when_it_is_asked_for(root: Path, packages: Path) -> None:
    put_gpu(root, 1, 110501, total=96)
    (entry,) = entries(root)
    assert (entry.available, entry.automatic) == (True, False)
    assert "only AMD GPU" in entry.reason
    put_gpu(root, 2, 110000)
    assert states(root) == [("rocm:1", True, True), ("rocm:0", True, False)]
    assert "only AMD GPU" not in entries(root)[1].reason


def test_of_several_cards_the_one_with_the_most_free_memory_comes_first(root: Path, packages: Path) -> None:
    put_gpu(root, 1, 110000, total=24, used=20)
    put_gpu(root, 2, 120001, total=16, used=1)
    put_gpu(root, 3, 120001, total=16, used=1)
    put_gpu(root, 4, 110501, total=96, used=0)
    assert [entry.device for entry in entries(root)] == ["rocm:1", "rocm:2", "rocm:0", "rocm:3"]


def test_the_best_comes_first_and_a_gpu_that_does_not_tell_its_memory_after_those_that_do() -> None:
    def gpu(index: int, free: int | None, *, integrated: bool = False) -> RocmDevice:
        return RocmDevice(index, "", "gfx1100", free, free, integrated, None)

    found = [gpu(0, 90, integrated=True), gpu(1, None), gpu(2, 5), gpu(3, 8), gpu(4, 8)]
    assert [each.index for each in chosen(found)] == [3, 4, 2, 1, 0]
    assert chosen([]) == []


def test_devices_have_their_target_and_the_memory_that_is_free(root: Path) -> None:
    put_gpu(root, 1, 90402, total=192, used=2)
    put_gpu(root, 2, 100306, total=1, used=0)
    put(root, {f"{PCI}/0000:02:00.0/mem_info_gtt_total": 8 * GIB, f"{PCI}/0000:02:00.0/mem_info_gtt_used": GIB})
    card, inside = devices.devices(root, {})
    assert (card.index, card.target, card.integrated) == (0, "gfx942", False)
    assert (card.memory_bytes, card.free_bytes) == (192 * GIB, 190 * GIB)
    assert (inside.device, inside.target, inside.integrated) == ("rocm:1", "gfx1036", True)
    assert (inside.memory_bytes, inside.free_bytes) == (9 * GIB, 8 * GIB)


def test_the_partitions_of_a_card_share_its_memory(root: Path) -> None:
    put_gpu(root, 1, 90402, total=192, used=96)
    text = (root / f"{KFD}/1/properties").read_text()
    put(root, {f"{KFD}/2/properties": text})
    assert [each.free_bytes for each in devices.devices(root, {})] == [48 * GIB, 48 * GIB]


def test_a_gpu_whose_driver_tells_nothing_of_its_memory_is_offered_all_the_same(root: Path, packages: Path) -> None:
    put_gpu(root, 1, 110000)
    (root / f"{PCI}/0000:01:00.0/mem_info_vram_used").unlink()
    (device,) = devices.devices(root, {})
    assert (device.memory_bytes, device.free_bytes) == (24 * GIB, None)
    assert states(root) == [("rocm:0", True, True)]


@pytest.mark.parametrize(
    ("target", "automatic"),
    [(90006, False), (90008, False), (100100, False), (90010, True), (90500, True), (100300, True), (120001, True)],
)
def test_a_gpu_older_than_what_kernels_are_proved_for_is_used_only_when_it_is_asked_for(
    root: Path, packages: Path, target: int, automatic: bool
) -> None:
    put_gpu(root, 1, target)
    (entry,) = entries(root)
    assert entry.available
    assert entry.automatic is automatic
    assert ("proved for none so old" in entry.reason) is not automatic


# What bars a GPU -----------------------------------------------------------------------------------------------------


def test_a_machine_without_an_amd_gpu_says_so(root: Path, packages: Path) -> None:
    (entry,) = entries(root)
    assert (entry.device, entry.available, entry.reason) == ("rocm", False, "there is no AMD GPU in this machine.")


def test_a_gpu_that_the_drivers_computing_half_does_not_know_says_so(root: Path, packages: Path) -> None:
    put(root, {f"{PCI}/0000:03:00.0/{key}": value for key, value in (("vendor", "0x1002"), ("class", "0x030000"))})
    (entry,) = entries(root)
    assert not entry.available
    assert "KFD" in entry.reason
    assert "amdgpu" in str(entry.fix)


def test_a_container_without_the_drivers_file_says_how_to_give_it(root: Path, packages: Path) -> None:
    put_gpu(root, 1, 110000)
    (root / "dev/kfd").unlink()
    (entry,) = entries(root)
    assert not entry.available
    assert entry.reason == "there is no /dev/kfd."
    assert "--device=/dev/kfd" in str(entry.fix)


@pytest.mark.parametrize("file", ["dev/kfd", "dev/dri/renderD129"])
def test_a_user_who_may_not_open_the_drivers_files_is_told_which_groups_may(
    root: Path, packages: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    put_gpu(root, 1, 110000)
    monkeypatch.setattr("os.access", lambda path, _: Path(path) != root / file)
    (entry,) = entries(root)
    assert not entry.available
    assert entry.reason == f"this user may not open /{file}."
    assert "groups render and video" in str(entry.fix)


def test_a_gpu_that_the_environment_hides_is_reported_and_the_others_are_numbered_as_torch_does(
    root: Path, packages: Path
) -> None:
    put_gpu(root, 1, 110000, name="first")
    put_gpu(root, 2, 120001, name="second", total=16)
    seen, hidden = entries(root, HIP_VISIBLE_DEVICES="1")
    assert (seen.device, seen.description, seen.available) == ("rocm:0", "second, gfx1201", True)
    assert (hidden.device, hidden.description, hidden.available) == ("rocm", "first, gfx1100", False)
    assert "HIP_VISIBLE_DEVICES=1" in hidden.reason
    assert [entry.available for entry in entries(root, ROCR_VISIBLE_DEVICES="")] == [False, False]


def test_a_gpu_whose_device_file_a_container_was_not_given_is_reported_and_not_counted(
    root: Path, packages: Path
) -> None:
    put_gpu(root, 1, 110000, name="first", render=False)
    put_gpu(root, 2, 120001, name="second")
    seen, lost = entries(root)
    assert (seen.device, seen.description) == ("rocm:0", "second, gfx1201")
    assert lost.reason == "there is no /dev/dri/renderD129."


@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_other_systems_have_no_device(root: Path, packages: Path, platform: str) -> None:
    put_gpu(root, 1, 110000)
    (entry,) = availabilities(root, {}, platform)
    assert (entry.device, entry.available) == ("rocm", False)
    assert "Linux" in entry.reason


# The interpreter -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "there"), [("1", True), ("true", True), ("0", False), ("", False)])
def test_the_interpreter_is_a_device_where_the_environment_asks_for_it(
    root: Path, packages: Path, value: str, there: bool
) -> None:
    put(packages, {"torch/version.py": CPU})
    found = [entry for entry in entries(root, TRITON_INTERPRET=value) if entry.device == "interpreter"]
    assert [(entry.available, entry.automatic) for entry in found] == [(True, False)] * there
    if there:
        assert "thousands of times slower" in found[0].reason


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("__version__ = '3.6.0'", "triton 3.6.0 is older than 3.7"),
        ("__version__ = '3.7.1+rocm7.2.53211'", None),
        ("__version__ = '4.0.0'", None),
        ("", "triton of no version is older than 3.7"),
    ],
)
def test_the_kernels_need_a_triton_no_older_than_the_one_they_were_proved_with(
    root: Path, packages: Path, line: str, why: str | None
) -> None:
    put(packages, {"triton/__init__.py": line})
    put_gpu(root, 1, 110000)
    (entry,) = availabilities(root, {}, "linux")
    assert entry.available is (why is None)
    assert why is None or why in entry.reason
    assert why is None or "--upgrade" in str(entry.fix)


def test_there_is_no_interpreter_without_triton_or_torch(root: Path, packages: Path) -> None:
    (packages / "triton/__init__.py").unlink()
    assert states(root, TRITON_INTERPRET="1") == [("rocm", False, False)]


def test_a_gpu_is_not_offered_where_its_kernels_would_run_on_the_cpu(root: Path, packages: Path) -> None:
    put_gpu(root, 1, 110000)
    gpu, interpreter = entries(root, TRITON_INTERPRET="1")
    assert (gpu.available, gpu.fix) == (False, "unset TRITON_INTERPRET")
    assert interpreter.device == "interpreter"


# Asking for a device -------------------------------------------------------------------------------------------------


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Availability]]:
    found: list[Availability] = []
    monkeypatch.setattr(devices, "availabilities", lambda: found)
    yield found


def entry(device: str, **facts: Any) -> Availability:
    return Availability(
        device, device.upper(), facts.pop("available", True), facts.pop("automatic", True), "so.", **facts
    )


def test_without_a_wish_the_first_automatic_device_is_taken(offered: list[Availability]) -> None:
    offered += [entry("rocm:1", available=False, automatic=False), entry("rocm:0"), entry("rocm:2")]
    assert device_for(LoadOptions()).device == "rocm:0"
    assert device_for(LoadOptions(device="rocm:2")).device == "rocm:2"


def test_a_device_that_must_be_asked_for_is_named_and_taken_when_it_is(offered: list[Availability]) -> None:
    offered += [entry("rocm:0", automatic=False), entry("interpreter", automatic=False)]
    with pytest.raises(BackendUnavailableError, match=r'device="rocm:0"'):
        device_for(LoadOptions())
    assert device_for(LoadOptions(device="interpreter")).device == "interpreter"


def test_a_device_that_is_not_there_or_cannot_be_used_is_refused_with_the_cure(offered: list[Availability]) -> None:
    offered += [entry("rocm:0", available=False, automatic=False, fix="mend it")]
    with pytest.raises(BackendUnavailableError, match=r"no device 'rocm:3'. Its devices: rocm:0"):
        device_for(LoadOptions(device="rocm:3"))
    for wish in (None, "rocm:0"):
        with pytest.raises(BackendUnavailableError, match=r"ROCM:0: so\. Try: mend it"):
            device_for(LoadOptions(device=wish))
