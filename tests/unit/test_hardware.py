"""The hardware probe on this machine and on made-up ones: a directory stands for "/"."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from inference.hardware import CPU, Machine, available_memory, darwin, linux, machine, physical_cores
from inference.hardware.linux_gpus import rocm_gpus, visible

GIB = 2**30
CPUINFO = (
    "processor\t: 0\nmodel name\t: Example 9000\nflags\t\t: sse2 avx2 avx512_bf16\n\nprocessor\t: 1\nflags\t: odd\n"
)
PCI = "sys/bus/pci/devices"
KFD = "sys/class/kfd/kfd/topology/nodes"
NVIDIA = "proc/driver/nvidia/gpus"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path


def put(root: Path, files: dict[str, object]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")


def put_cores(root: Path, siblings: list[str], name: str = "core_cpus_list") -> None:
    """One entry for each hardware thread: the threads of its core."""
    put(root, {"sys/devices/system/cpu/online": f"0-{len(siblings) - 1}"})
    put(root, {f"sys/devices/system/cpu/cpu{i}/topology/{name}": text for i, text in enumerate(siblings)})


def put_pci(root: Path, address: str, vendor: int, device: int, kind: int, **files: object) -> None:
    ids = {"vendor": f"{vendor:#06x}", "device": f"{device:#06x}", "class": f"{kind:#08x}"}
    put(root, {f"{PCI}/{address}/{name}": text for name, text in (ids | files).items()})


def put_kfd(root: Path, node: int, target: int, location: int, simds: int = 192, **more: int) -> None:
    facts = {"cpu_cores_count": 0, "simd_count": simds, "gfx_target_version": target, "location_id": location, **more}
    put(root, {f"{KFD}/{node}/properties": "\n".join(f"{key} {value}" for key, value in facts.items())})


# This machine --------------------------------------------------------------------------------------------------------


def test_this_machine_is_described_in_full() -> None:
    here = machine()
    assert isinstance(here, Machine)
    assert here.system in ("linux", "darwin", "windows")
    assert here.architecture
    assert here.cpu.name
    assert 1 <= here.cpu.usable_cores <= here.cpu.physical_cores
    assert here.memory_bytes is not None
    assert here.available_memory_bytes is not None
    assert 0 < here.available_memory_bytes <= here.memory_bytes


def test_the_short_cuts_agree_with_the_description() -> None:
    here = machine()
    assert physical_cores() == here.cpu.usable_cores
    available = available_memory()
    assert available is not None
    assert here.memory_bytes is not None
    assert 0 < available <= here.memory_bytes


def test_a_system_that_shows_nothing_is_described_all_the_same(root: Path) -> None:
    assert linux.cpu(root).usable_cores >= 1
    assert linux.cpu(root).name == "unknown processor"
    assert linux.gpus(root) == ()
    assert linux.memory(root) == (None, None)


def test_files_full_of_nonsense_are_as_good_as_none(root: Path) -> None:
    put_cores(root, ["x", "-", ""])
    put_pci(root, "0000:01:00.0", 0x1002, 1, 0x030000, mem_info_vram_total="much")
    put(root, {f"{PCI}/0000:02:00.0/class": "?", f"{KFD}/0/properties": "simd_count many", f"{KFD}/x/properties": "1"})
    put(root, {"proc/self/cgroup": "nonsense\n0::/a", "sys/fs/cgroup/a/cpu.max": "x y", "proc/meminfo": "MemTotal: ?"})
    put(root, {"sys/fs/cgroup/a/memory.max": "?", "proc/cpuinfo": "\x00", f"{NVIDIA}/0000:09:00.0/information": ""})
    assert linux.usable_cores(root, affinity={0, 1, 2}) == 3
    assert {(gpu.vendor, gpu.memory_bytes) for gpu in linux.gpus(root)} == {("amd", None), ("nvidia", None)}
    assert linux.memory(root) == (None, None)


# The processor -------------------------------------------------------------------------------------------------------


def test_the_processor_has_a_name_and_features(root: Path) -> None:
    put(root, {"proc/cpuinfo": CPUINFO})
    put_cores(root, ["0", "1"])
    cpu = linux.cpu(root)
    assert isinstance(cpu, CPU)
    assert cpu.name == "Example 9000"
    assert cpu.features == {"sse2", "avx2", "avx512_bf16"}


@pytest.mark.parametrize("name", ["core_cpus_list", "thread_siblings_list"])
def test_two_threads_of_one_core_count_once(root: Path, name: str) -> None:
    put_cores(root, ["0,4", "1,5", "2,6", "3,7", "0,4", "1,5", "2,6", "3,7"], name)
    assert linux.usable_cores(root, affinity=range(8)) == 4


def test_neighbouring_threads_of_one_core_count_once(root: Path) -> None:
    put_cores(root, ["0-1", "0-1", "2-3", "2-3"])
    assert linux.usable_cores(root, affinity=range(4)) == 2


@pytest.mark.parametrize(("affinity", "cores"), [({0, 4}, 1), ({0, 1}, 2), ({4, 5, 6}, 3), ({2}, 1)])
def test_only_cores_that_the_process_may_run_on_count(root: Path, affinity: set[int], cores: int) -> None:
    put_cores(root, ["0,4", "1,5", "2,6", "3,7", "0,4", "1,5", "2,6", "3,7"])
    assert linux.usable_cores(root, affinity) == cores


def test_slow_cores_of_a_hybrid_processor_do_not_count_beside_fast_ones(root: Path) -> None:
    put_cores(root, ["0-1", "0-1", "2-3", "2-3", "4", "5", "6", "7"])
    put(root, {"sys/devices/cpu_core/cpus": "0-3", "sys/devices/cpu_atom/cpus": "4-7"})
    assert linux.usable_cores(root, affinity=range(8)) == 2
    assert linux.usable_cores(root, affinity={4, 5, 6}) == 3


@pytest.mark.parametrize(
    ("quota", "cores"), [("200000 100000", 2), ("250000 100000", 2), ("50000 100000", 1), ("max 100000", 8)]
)
def test_a_containers_cpu_quota_limits_the_cores(root: Path, quota: str, cores: int) -> None:
    put_cores(root, [str(i) for i in range(8)])
    put(root, {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": quota})
    assert linux.usable_cores(root, affinity=range(8)) == cores


def test_the_quota_of_a_group_further_up_counts_too(root: Path) -> None:
    put_cores(root, [str(i) for i in range(8)])
    put(root, {"proc/self/cgroup": "0::/user.slice/app.scope", "sys/fs/cgroup/user.slice/cpu.max": "300000 100000"})
    put(root, {"sys/fs/cgroup/user.slice/app.scope/cpu.max": "max 100000"})
    assert linux.usable_cores(root, affinity=range(8)) == 3


@pytest.mark.parametrize(("quota", "cores"), [(400000, 4), (-1, 8)])
def test_the_quota_of_control_groups_version_1_counts(root: Path, quota: int, cores: int) -> None:
    put_cores(root, [str(i) for i in range(8)])
    group = "sys/fs/cgroup/cpu/docker/abc"
    put(root, {"proc/self/cgroup": "4:cpu,cpuacct:/docker/abc\n2:memory:/docker/abc"})
    put(root, {f"{group}/cpu.cfs_quota_us": quota, f"{group}/cpu.cfs_period_us": 100000})
    assert linux.usable_cores(root, affinity=range(8)) == cores


# Memory --------------------------------------------------------------------------------------------------------------


def put_memory(root: Path, total: int, available: int) -> None:
    put(root, {"proc/meminfo": f"MemTotal: {total // 1024} kB\nMemFree: 1 kB\nMemAvailable: {available // 1024} kB"})


def test_without_a_container_the_whole_memory_counts(root: Path) -> None:
    put_memory(root, 64 * GIB, 48 * GIB)
    put(root, {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cgroup.controllers": "memory"})
    assert linux.memory(root) == (64 * GIB, 48 * GIB)


def test_a_containers_limit_less_its_use_is_what_is_available(root: Path) -> None:
    put_memory(root, 64 * GIB, 48 * GIB)
    put(
        root, {"proc/self/cgroup": "0::/", "sys/fs/cgroup/memory.max": 8 * GIB, "sys/fs/cgroup/memory.current": 3 * GIB}
    )
    assert linux.memory(root) == (8 * GIB, 5 * GIB)


def test_page_cache_in_a_container_counts_as_free(root: Path) -> None:
    put_memory(root, 64 * GIB, 48 * GIB)
    put(
        root, {"proc/self/cgroup": "0::/", "sys/fs/cgroup/memory.max": 8 * GIB, "sys/fs/cgroup/memory.current": 7 * GIB}
    )
    stat = f"anon {GIB}\ninactive_file {4 * GIB}\nactive_file {GIB}\nslab_reclaimable {GIB}"
    put(root, {"sys/fs/cgroup/memory.stat": stat})
    assert linux.memory(root) == (8 * GIB, 7 * GIB)


def test_a_group_further_up_that_is_nearly_full_leaves_no_more_than_its_rest(root: Path) -> None:
    put_memory(root, 64 * GIB, 48 * GIB)
    put(root, {"proc/self/cgroup": "0::/pod/box"})
    put(root, {"sys/fs/cgroup/pod/memory.max": 16 * GIB, "sys/fs/cgroup/pod/memory.current": 15 * GIB})
    put(root, {"sys/fs/cgroup/pod/box/memory.max": 8 * GIB, "sys/fs/cgroup/pod/box/memory.current": GIB})
    assert linux.memory(root) == (8 * GIB, GIB)


def test_the_machines_own_memory_is_the_upper_bound_of_a_containers(root: Path) -> None:
    put_memory(root, 64 * GIB, 2 * GIB)
    put(root, {"proc/self/cgroup": "0::/", "sys/fs/cgroup/memory.max": 8 * GIB, "sys/fs/cgroup/memory.current": 0})
    assert linux.memory(root) == (8 * GIB, 2 * GIB)


def test_control_groups_version_1_limit_memory_even_when_the_hosts_path_is_not_to_be_seen(root: Path) -> None:
    put_memory(root, 64 * GIB, 48 * GIB)
    group = "sys/fs/cgroup/memory"
    put(root, {"proc/self/cgroup": "4:memory:/docker/abc", f"{group}/memory.limit_in_bytes": 4 * GIB})
    put(root, {f"{group}/memory.usage_in_bytes": 3 * GIB, f"{group}/memory.stat": f"total_inactive_file {2 * GIB}"})
    assert linux.memory(root) == (4 * GIB, 3 * GIB)


def test_version_1s_word_for_unlimited_is_no_limit(root: Path) -> None:
    put_memory(root, 64 * GIB, 48 * GIB)
    group = "sys/fs/cgroup/memory"
    put(root, {"proc/self/cgroup": "4:memory:/", f"{group}/memory.limit_in_bytes": 9223372036854771712})
    put(root, {f"{group}/memory.usage_in_bytes": 60 * GIB})
    assert linux.memory(root) == (64 * GIB, 48 * GIB)


# GPUs ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({}, {}),
        (
            {"proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX Kernel Module  570.86.15  Thu Jan 23\nGCC 12"},
            {"nvidia": "570.86.15"},
        ),
        ({"sys/module/amdgpu/version": "6.12.12"}, {"amdgpu": "6.12.12"}),
        (
            {"sys/module/amdgpu/initstate": "live", "proc/sys/kernel/osrelease": "6.14.0-27-generic"},
            {"amdgpu": "6.14.0-27-generic"},
        ),
        ({"proc/driver/nvidia/version": "nothing of the kind"}, {}),
    ],
)
def test_drivers_have_versions_and_amds_that_comes_with_the_kernel_has_the_kernels(
    root: Path, files: dict[str, object], found: dict[str, str]
) -> None:
    put(root, files)
    assert linux.drivers(root) == found


def test_nvidia_cards_are_named_by_their_driver(root: Path) -> None:
    put_pci(root, "0000:00:02.0", 0x1234, 0x1111, 0x030000)
    put_pci(root, "0000:41:00.0", 0x10DE, 0x2684, 0x030000)
    put_pci(root, "0000:41:00.1", 0x10DE, 0x22BA, 0x040300)
    put_pci(root, "0000:c1:00.0", 0x10DE, 0x2330, 0x030200)
    put(root, {f"{NVIDIA}/0000:41:00.0/information": "Model: \t\t NVIDIA GeForce RTX 4090\nIRQ: \t 5"})
    put(root, {f"{NVIDIA}/0000:c1:00.0/information": "Model: \t\t NVIDIA H100 80GB HBM3"})
    found = linux.gpus(root)
    assert [(gpu.vendor, gpu.index, gpu.name) for gpu in found] == [
        ("nvidia", 0, "NVIDIA GeForce RTX 4090"),
        ("nvidia", 1, "NVIDIA H100 80GB HBM3"),
    ]
    assert all(gpu.driver for gpu in found)


def test_an_nvidia_card_without_its_driver_is_seen_and_comes_last(root: Path) -> None:
    put_pci(root, "0000:01:00.0", 0x10DE, 0x2684, 0x030000)
    put_pci(root, "0000:02:00.0", 0x10DE, 0x2330, 0x030200)
    put(root, {f"{NVIDIA}/0000:02:00.0/information": "Model: NVIDIA H100"})
    first, last = linux.gpus(root)
    assert (first.name, first.driver, first.index) == ("NVIDIA H100", True, 0)
    assert (last.name, last.driver, last.index) == ("NVIDIA GPU 10de:2684", False, 1)


def test_nvidia_is_found_where_the_bus_cannot_be_seen(root: Path) -> None:
    put(root, {f"{NVIDIA}/0000:01:00.0/information": "Model: NVIDIA A10"})
    assert [gpu.name for gpu in linux.gpus(root)] == ["NVIDIA A10"]


def test_the_windows_hosts_gpu_is_found_under_wsl(root: Path) -> None:
    put(root, {"dev/dxg": "", "usr/lib/wsl/lib/libcuda.so.1": ""})
    assert [gpu.vendor for gpu in linux.gpus(root)] == ["nvidia"]


def test_amds_card_and_the_gpu_in_the_processor_are_told_apart(root: Path) -> None:
    put_pci(root, "0000:03:00.0", 0x1002, 0x744C, 0x030000, mem_info_vram_total=24 * GIB, mem_info_gtt_total=32 * GIB)
    put_pci(root, "0000:0c:00.0", 0x1002, 0x164E, 0x030000, mem_info_vram_total=GIB // 2, mem_info_gtt_total=32 * GIB)
    put_kfd(root, 0, 0, 0, simds=0)
    put_kfd(root, 1, 110000, 0x0300)
    put_kfd(root, 2, 100306, 0x0C00, simds=4)
    card, inside = linux.gpus(root)
    assert (card.vendor, card.index, card.integrated, card.memory_bytes) == ("amd", 0, False, 24 * GIB)
    assert card.name == "AMD GPU gfx1100"
    assert (inside.vendor, inside.index, inside.integrated) == ("amd", 1, True)
    assert inside.memory_bytes == GIB // 2 + 32 * GIB


def test_an_amd_accelerator_is_found_and_named(root: Path) -> None:
    put_pci(
        root,
        "0001:c5:00.0",
        0x1002,
        0x74A1,
        0x120000,
        mem_info_vram_total=192 * GIB,
        product_name="AMD Instinct MI300X",
    )
    put(root, {f"{KFD}/4/properties": "simd_count 1216\ngfx_target_version 90402\nlocation_id 50432\ndomain 1"})
    (gpu,) = linux.gpus(root)
    assert (gpu.name, gpu.memory_bytes, gpu.integrated) == ("AMD Instinct MI300X", 192 * GIB, False)


def test_rocms_order_is_that_of_its_nodes_not_of_the_bus(root: Path) -> None:
    put_pci(root, "0000:03:00.0", 0x1002, 1, 0x030000)
    put_pci(root, "0000:83:00.0", 0x1002, 2, 0x030000)
    put_kfd(root, 10, 110000, 0x0300)
    put_kfd(root, 9, 120001, 0x8300)
    assert [gpu.name for gpu in linux.gpus(root)] == ["AMD GPU gfx1201", "AMD GPU gfx1100"]


def test_a_gpu_of_rocms_has_its_target_its_directory_its_uuid_and_its_device_file(root: Path) -> None:
    put_pci(root, "0000:03:00.0", 0x1002, 0x740F, 0x038000, mem_info_vram_total=64 * GIB, mem_info_vram_used=GIB)
    put_kfd(root, 2, 90010, 0x0300, unique_id=0x4B2C1A9F8D3E6F7A, drm_render_minor=129)
    (gpu,) = rocm_gpus(root)
    assert (gpu.target, gpu.uuid, gpu.integrated) == ("gfx90a", "GPU-4b2c1a9f8d3e6f7a", False)
    assert gpu.folder == root / PCI / "0000:03:00.0"
    assert gpu.device_file == root / "dev/dri/renderD129"
    assert (gpu.memory("total"), gpu.memory("used")) == (64 * GIB, GIB)


UUIDS = (0x4B2C1A9F8D3E6F7A, 0x4B2C000000000001, 0x0000000000000ABC)


@pytest.mark.parametrize(
    ("environment", "seen"),
    [
        ({}, "012"),
        ({"HIP_VISIBLE_DEVICES": "2,0"}, "20"),
        ({"HIP_VISIBLE_DEVICES": "1,1,2"}, "12"),
        ({"HIP_VISIBLE_DEVICES": "1,7,2"}, "1"),  # what stands behind a name that is none does not count
        ({"HIP_VISIBLE_DEVICES": "1, 2"}, "1"),  # nor is " 2" a name to HIP
        ({"HIP_VISIBLE_DEVICES": "-1"}, ""),
        ({"HIP_VISIBLE_DEVICES": ""}, "012"),
        ({"HIP_VISIBLE_DEVICES": "GPU-0000000000000abc,0"}, "20"),
        ({"CUDA_VISIBLE_DEVICES": "1"}, "1"),
        ({"CUDA_VISIBLE_DEVICES": "1", "HIP_VISIBLE_DEVICES": "2"}, "2"),
        ({"ROCR_VISIBLE_DEVICES": "2,1"}, "21"),
        ({"ROCR_VISIBLE_DEVICES": "2, 1"}, "21"),
        ({"ROCR_VISIBLE_DEVICES": "1,1,2"}, "1"),
        ({"ROCR_VISIBLE_DEVICES": ""}, ""),
        ({"ROCR_VISIBLE_DEVICES": "x"}, ""),
        ({"ROCR_VISIBLE_DEVICES": "GPU-4b2c1a9f8d3e6f7a,2"}, "02"),
        ({"ROCR_VISIBLE_DEVICES": "gpu-4B2C1"}, "0"),
        ({"ROCR_VISIBLE_DEVICES": "GPU-4b2c"}, ""),  # two have it
        ({"ROCR_VISIBLE_DEVICES": "GPU-"}, ""),
        ({"ROCR_VISIBLE_DEVICES": "1,2", "HIP_VISIBLE_DEVICES": "1"}, "2"),
        ({"ROCR_VISIBLE_DEVICES": "0", "HIP_VISIBLE_DEVICES": "1"}, ""),
    ],
)
def test_the_environment_chooses_among_rocms_gpus_as_it_does_for_hip(
    root: Path, environment: dict[str, str], seen: str
) -> None:
    for number, uuid in enumerate(UUIDS):
        put_kfd(root, number + 1, 110000, 0x0300 + (number << 8), unique_id=uuid)
    found = rocm_gpus(root)
    assert "".join(str(found.index(gpu)) for gpu in visible(found, environment)) == seen


def test_a_gpu_whose_device_file_a_container_was_not_given_is_passed_over_in_counting(root: Path) -> None:
    for number in range(3):
        put_kfd(root, number + 1, 110000, 0x0300 + (number << 8), drm_render_minor=128 + number)
    put(root, {"dev/dri/renderD129": "", "dev/dri/renderD130": ""})
    found = rocm_gpus(root)
    assert visible(found, {}) == found[1:]
    assert visible(found, {"HIP_VISIBLE_DEVICES": "1"}) == found[2:]


def test_an_amd_gpu_that_cannot_compute_is_seen_and_says_so(root: Path) -> None:
    put_pci(root, "0000:03:00.0", 0x1002, 0x744C, 0x030000)
    (gpu,) = linux.gpus(root)
    assert (gpu.name, gpu.driver, gpu.integrated) == ("AMD GPU 1002:744c", False, None)


def test_intels_gpus_are_told_apart_by_their_bus(root: Path) -> None:
    put_pci(root, "0000:00:02.0", 0x8086, 0x46A6, 0x030000)
    put_pci(root, "0000:03:00.0", 0x8086, 0x56A0, 0x030000)
    assert [(gpu.vendor, gpu.integrated) for gpu in linux.gpus(root)] == [("intel", True), ("intel", False)]


def test_each_vendor_counts_its_gpus_from_zero(root: Path) -> None:
    put_pci(root, "0000:01:00.0", 0x10DE, 1, 0x030000)
    put_pci(root, "0000:02:00.0", 0x1002, 1, 0x030000)
    put_pci(root, "0000:03:00.0", 0x10DE, 1, 0x030000)
    assert [(gpu.vendor, gpu.index) for gpu in linux.gpus(root)] == [("nvidia", 0), ("nvidia", 1), ("amd", 0)]


# macOS, with the system's variables made up --------------------------------------------------------------------------


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> dict[str, int | str]:
    """What `sysctl` answers."""
    answers: dict[str, int | str] = {
        "machdep.cpu.brand_string": "Apple M3 Max",
        "hw.optional.arm64": 1,
        "hw.optional.arm.FEAT_BF16": 1,
        "hw.optional.arm.FEAT_SME": 0,
        "kern.osproductversion": "15.5",
        "hw.physicalcpu": 14,
        "hw.perflevel0.physicalcpu": 10,
        "hw.memsize": 36 * GIB,
        "vm.pagesize": 16384,
        "vm.page_free_count": 1000,
        "vm.page_pageable_external_count": 500,
        "vm.page_purgeable_count": 20,
    }

    def answer(name: str) -> bytes | None:
        value = answers.get(name)
        if value is None:
            return None
        return value.encode() + b"\x00" if isinstance(value, str) else value.to_bytes(8, "little")

    monkeypatch.setattr(darwin, "sysctl", answer)
    return answers


def test_an_apple_chip_counts_its_fast_cores_and_shares_its_memory(variables: dict[str, int | str]) -> None:
    cpu = darwin.cpu()
    assert (cpu.name, cpu.physical_cores, cpu.usable_cores) == ("Apple M3 Max", 14, 10)
    assert cpu.features == {"FEAT_BF16"}
    (gpu,) = darwin.gpus()
    assert (gpu.vendor, gpu.name, gpu.memory_bytes, gpu.integrated) == ("apple", "Apple M3 Max GPU", 36 * GIB, True)
    assert darwin.memory() == (36 * GIB, (1000 + 500 + 20) * 16384)
    assert darwin.drivers() == {"macos": "15.5"}


def test_an_intel_mac_has_no_apple_gpu(variables: dict[str, int | str]) -> None:
    variables.clear()
    variables |= {"machdep.cpu.brand_string": "Intel", "hw.physicalcpu": 8, "machdep.cpu.features": "SSE4.2 AVX1.0"}
    assert darwin.gpus() == ()
    assert darwin.cpu().usable_cores == 8
    assert darwin.cpu().features == {"sse4.2", "avx1.0"}


def test_a_mac_that_says_nothing_is_described_all_the_same(variables: dict[str, int | str]) -> None:
    variables.clear()
    assert darwin.cpu().usable_cores == 1
    assert darwin.gpus() == ()
    assert darwin.memory() == (None, None)
    assert darwin.drivers() == {}


@pytest.mark.skipif(sys.platform != "darwin", reason="asks macOS itself")
def test_macos_answers_under_the_names_that_are_asked_for() -> None:
    assert darwin.sysctl("hw.memsize")
    assert all(darwin.memory())
    assert darwin.sysctl("no.such.variable") is None
