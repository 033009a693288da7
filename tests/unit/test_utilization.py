"""How busy a device is: drivers made up, of files below a directory and of C functions written in Python."""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from ctypes import CFUNCTYPE, POINTER, c_char_p, c_int, c_int64, c_long, c_ubyte, c_uint, c_uint32, c_ulong, c_void_p
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest

from inference.hardware import darwin, utilization, utilization_gauge
from inference.hardware.utilization import amd_gauge, apple_gauge, cpu_gauge, nvidia_gauge

PCI = "sys/bus/pci/devices"
KFD = "sys/class/kfd/kfd/topology/nodes"
STRANGE_PERCENTS = [-1, 101, 65535]


def no_library(name: str) -> Any:
    raise OSError(f"{name}: cannot open shared object file")


# Names ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "source", "index"),
    [
        ("cuda:1", "nvidia_gauge", 1),
        ("cuda", "nvidia_gauge", 0),
        ("hip:0", "amd_gauge", 0),
        ("rocm:2", "amd_gauge", 2),
        ("metal", "apple_gauge", 0),
        ("metal:0", "apple_gauge", 0),
    ],
)
def test_a_devices_name_leads_to_its_driver(
    monkeypatch: pytest.MonkeyPatch, device: str, source: str, index: int
) -> None:
    monkeypatch.setattr(utilization, source, lambda number: lambda: (1 + number) / 10)
    assert utilization_gauge(device)() == (1 + index) / 10


@pytest.mark.parametrize(
    "device",
    ["vulkan:0", "sycl:0", "", ":", "0", "cuda:", "cuda:-1", "cuda:x", "cuda:0:1", "CUDA:0", "hip:٣", "metal:1"],
)
def test_of_a_device_of_another_name_nothing_is_said(device: str) -> None:
    assert utilization_gauge(device)() is None


@pytest.mark.parametrize("index", ["4294967296", "9" * 5000])
@pytest.mark.parametrize("kind", ["cuda", "hip", "metal"])
def test_a_number_too_large_for_the_driver_is_not_cut_down_to_another_cards(kind: str, index: str) -> None:
    assert utilization_gauge(f"{kind}:{index}")() is None


@pytest.mark.parametrize("device", ["cpu", "cuda:0", "hip:0", "rocm:0", "metal", "vulkan:0"])
def test_whatever_this_machine_has_a_reading_is_a_share_or_none(device: str) -> None:
    gauge = utilization_gauge(device)
    for _ in range(100):
        share = gauge()
        assert share is None or 0 <= share <= 1


# The processor -------------------------------------------------------------------------------------------------------


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.wall = 1000.0
        self.cpu = 7.0

    def gauge(self, cores: int) -> utilization.Gauge:
        return cpu_gauge(cores, lambda: self.wall, lambda: self.cpu)

    def pass_by(self, wall: float, cpu: float) -> None:
        self.wall += wall
        self.cpu += cpu


def test_the_cpus_share_is_the_processs_seconds_by_those_of_its_cores() -> None:
    clock = Clock()
    gauge = clock.gauge(cores=4)
    clock.pass_by(wall=2.0, cpu=6.0)
    assert gauge() == pytest.approx(0.75)


def test_each_reading_covers_the_time_since_the_one_before() -> None:
    clock = Clock()
    gauge = clock.gauge(cores=2)
    clock.pass_by(wall=1.0, cpu=2.0)
    assert gauge() == pytest.approx(1.0)
    clock.pass_by(wall=1.0, cpu=0.0)
    assert gauge() == 0.0
    clock.pass_by(wall=10.0, cpu=5.0)
    assert gauge() == pytest.approx(0.25)


def test_second_threads_of_busy_cores_do_not_make_more_than_the_whole() -> None:
    clock = Clock()
    gauge = clock.gauge(cores=2)
    clock.pass_by(wall=1.0, cpu=4.0)
    assert gauge() == 1.0


def test_a_reading_too_soon_repeats_the_last_one_and_its_time_counts_in_the_next() -> None:
    clock = Clock()
    gauge = clock.gauge(cores=1)
    assert gauge() is None
    clock.pass_by(wall=1.0, cpu=0.5)
    assert gauge() == pytest.approx(0.5)
    for _ in range(4):
        clock.pass_by(wall=0.01, cpu=0.01)
        assert gauge() == pytest.approx(0.5)
    clock.pass_by(wall=0.04, cpu=0.0)
    assert gauge() == pytest.approx(0.5)
    clock.pass_by(wall=0.1, cpu=0.1)
    assert gauge() == pytest.approx(1.0)


def test_readings_of_one_gauge_do_not_shorten_those_of_another() -> None:
    clock = Clock()
    first, second = clock.gauge(cores=1), clock.gauge(cores=1)
    clock.pass_by(wall=1.0, cpu=1.0)
    assert first() == 1.0
    clock.pass_by(wall=1.0, cpu=0.0)
    assert second() == pytest.approx(0.5)


def test_work_in_this_process_shows_on_the_cpu() -> None:
    gauge = utilization_gauge("cpu")
    while (share := gauge()) is None:
        pass
    assert 0 < share <= 1


def test_many_threads_may_read_the_cpu_at_once() -> None:
    clock = Clock()
    gauge = clock.gauge(cores=1)

    def read(_: int) -> float | None:
        clock.pass_by(wall=0.06, cpu=0.03)
        return gauge()

    with ThreadPoolExecutor(8) as pool:
        assert all(share is None or 0 <= share <= 1 for share in pool.map(read, range(400)))


# AMD -----------------------------------------------------------------------------------------------------------------


def put_cards(root: Path, *cards: tuple[int, object]) -> None:
    """KFD's nodes, after one for the processor: PCI bus and percent of each card."""
    for node, (bus, percent) in enumerate([(0, None), *cards]):
        properties = root / KFD / str(node) / "properties"
        properties.parent.mkdir(parents=True)
        gpu = f"simd_count 192\ngfx_target_version 110000\nlocation_id {bus << 8}\n"
        properties.write_text(gpu if bus else "simd_count 0\n")
        if percent is not None:
            file = root / PCI / f"0000:{bus:02x}:00.0" / "gpu_busy_percent"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{percent}\n")


def amd_readings(root: Path, environment: Mapping[str, str] = MappingProxyType({})) -> list[float | None]:
    return [amd_gauge(index, root, environment)() for index in range(3)]


def test_an_amd_card_is_as_busy_as_its_drivers_file_says_now(tmp_path: Path) -> None:
    put_cards(tmp_path, (3, 0))
    gauge = amd_gauge(0, tmp_path, {})
    assert gauge() == 0.0
    (tmp_path / PCI / "0000:03:00.0/gpu_busy_percent").write_text("42\n")
    assert gauge() == pytest.approx(0.42)
    (tmp_path / PCI / "0000:03:00.0/gpu_busy_percent").write_text("100\n")
    assert gauge() == 1.0


def test_amd_cards_are_counted_in_rocms_order_not_in_that_of_the_bus(tmp_path: Path) -> None:
    put_cards(tmp_path, (0x83, 10), (0x03, 20))
    assert amd_readings(tmp_path) == [0.1, 0.2, None]


@pytest.mark.parametrize(
    ("environment", "readings"),
    [
        ({"HIP_VISIBLE_DEVICES": "2"}, [0.3, None, None]),
        ({"HIP_VISIBLE_DEVICES": "2,0"}, [0.3, 0.1, None]),
        ({"HIP_VISIBLE_DEVICES": "1,1,2"}, [0.2, 0.3, None]),
        ({"HIP_VISIBLE_DEVICES": ""}, [0.1, 0.2, 0.3]),
        ({"CUDA_VISIBLE_DEVICES": "1"}, [0.2, None, None]),
        ({"CUDA_VISIBLE_DEVICES": "1", "HIP_VISIBLE_DEVICES": "2"}, [0.3, None, None]),
        ({"ROCR_VISIBLE_DEVICES": "1,2"}, [0.2, 0.3, None]),
        ({"ROCR_VISIBLE_DEVICES": "1,2", "HIP_VISIBLE_DEVICES": "1"}, [0.3, None, None]),
        ({"ROCR_VISIBLE_DEVICES": "0", "HIP_VISIBLE_DEVICES": "1"}, [None, None, None]),
        ({"HIP_VISIBLE_DEVICES": "-1"}, [None, None, None]),
        ({"ROCR_VISIBLE_DEVICES": "GPU-4b2c1a9f8d3e6f7a,0"}, [None, None, None]),
    ],
)
def test_amd_cards_that_the_environment_hides_are_not_counted(
    tmp_path: Path, environment: Mapping[str, str], readings: list[float | None]
) -> None:
    put_cards(tmp_path, (0x03, 10), (0x43, 20), (0x83, 30))
    assert amd_readings(tmp_path, environment) == readings


def test_a_part_of_an_amd_card_does_not_answer_with_the_whole_cards_figure(tmp_path: Path) -> None:
    put_cards(tmp_path, (0x03, 10), (0x03, 10), (0x43, 20))
    assert amd_readings(tmp_path) == [None, None, 0.2]


@pytest.mark.parametrize("percent", [None, "", "much", *STRANGE_PERCENTS])
def test_an_amd_driver_that_does_not_tell_is_not_guessed_at(tmp_path: Path, percent: object) -> None:
    put_cards(tmp_path, (3, percent))
    assert amd_readings(tmp_path) == [None, None, None]


def test_without_amds_driver_there_is_no_reading(tmp_path: Path) -> None:
    assert amd_readings(tmp_path) == [None, None, None]


# NVIDIA --------------------------------------------------------------------------------------------------------------


class NvidiaDriver:
    """CUDA and NVML over cards by their PCI addresses: CUDA counts them as listed, NVML knows them by address."""

    def __init__(self, *cards: tuple[str, int]) -> None:
        self.addresses = [address for address, _ in cards]
        self.percents = dict(cards)
        self.started = True
        self.error = 0
        self.loads: list[str] = []
        self.initialised = 0
        cuda = SimpleNamespace(
            cuDeviceGet=CFUNCTYPE(c_int, POINTER(c_int), c_int)(self.device),
            cuDeviceGetPCIBusId=CFUNCTYPE(c_int, c_void_p, c_int, c_int)(self.address),
        )
        nvml = SimpleNamespace(
            nvmlInit_v2=CFUNCTYPE(c_int)(self.initialise),
            nvmlDeviceGetHandleByPciBusId_v2=CFUNCTYPE(c_int, c_char_p, POINTER(c_void_p))(self.handle),
            nvmlDeviceGetUtilizationRates=CFUNCTYPE(c_int, c_void_p, POINTER(c_uint * 2))(self.rates),
        )
        self.libraries = {"libcuda.so.1": cuda, "nvcuda.dll": cuda, "libnvidia-ml.so.1": nvml, "nvml.dll": nvml}

    def load(self, name: str) -> Any:
        self.loads.append(name)
        time.sleep(0.01)  # Other threads come in between.
        return self.libraries[name]

    def device(self, device: Any, ordinal: int) -> int:
        if not self.started:
            return 3  # CUDA_ERROR_NOT_INITIALIZED
        device[0] = 100 + ordinal
        return 0 if ordinal < len(self.addresses) else 101  # CUDA_ERROR_INVALID_DEVICE

    def address(self, text: int, length: int, device: int) -> int:
        assert length >= 13
        ctypes.memmove(text, self.addresses[device - 100].encode() + b"\0", 13)
        return 0

    def initialise(self) -> int:
        self.initialised += 1
        return 0

    def handle(self, address: bytes, card: Any) -> int:
        card[0] = 0x7F00_0000_0000 + self.addresses.index(address.decode())
        return 0

    def rates(self, card: int, rates: Any) -> int:
        rates[0][0] = self.percents[self.addresses[card - 0x7F00_0000_0000]]
        rates[0][1] = 77
        return self.error


def test_an_nvidia_card_is_as_busy_as_nvml_says_now() -> None:
    driver = NvidiaDriver(("0000:41:00.0", 0))
    gauge = nvidia_gauge(0, driver.load)
    assert gauge() == 0.0
    driver.percents["0000:41:00.0"] = 64
    assert gauge() == pytest.approx(0.64)


def test_the_nvidia_card_is_the_one_to_which_cuda_gives_the_number() -> None:
    driver = NvidiaDriver(("0000:c1:00.0", 90), ("0000:01:00.0", 5))
    assert nvidia_gauge(0, driver.load)() == pytest.approx(0.9)
    assert nvidia_gauge(1, driver.load)() == pytest.approx(0.05)
    assert nvidia_gauge(2, driver.load)() is None


def test_nvidias_libraries_are_opened_by_the_first_reading_and_once() -> None:
    driver = NvidiaDriver(("0000:41:00.0", 50))
    gauge = nvidia_gauge(0, driver.load)
    assert driver.loads == []
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: gauge(), range(200))) == {0.5}
    assert len(driver.loads) == len(set(driver.loads)) == 2
    assert driver.initialised == 1


def test_two_models_on_one_nvidia_card_share_what_was_opened() -> None:
    driver = NvidiaDriver(("0000:41:00.0", 50))
    assert nvidia_gauge(0, driver.load)() == nvidia_gauge(0, driver.load)() == 0.5
    assert driver.initialised == 1


def test_before_the_engine_has_started_cuda_nobody_knows_the_card() -> None:
    driver = NvidiaDriver(("0000:41:00.0", 50))
    driver.started = False
    gauge = nvidia_gauge(0, driver.load)
    assert gauge() is None
    driver.started = True
    assert gauge() == 0.5


@pytest.mark.parametrize("error", [3, 15, 999])  # not supported, as with MIG; the GPU is lost; unknown
def test_an_error_of_nvml_is_no_reading_and_may_pass(error: int) -> None:
    driver = NvidiaDriver(("0000:41:00.0", 50))
    gauge = nvidia_gauge(0, driver.load)
    driver.error = error
    assert gauge() is None
    driver.error = 0
    assert gauge() == 0.5


@pytest.mark.parametrize("percent", [101, 65535, 2**32 - 1])
def test_an_nvidia_driver_that_does_not_tell_is_not_guessed_at(percent: int) -> None:
    assert nvidia_gauge(0, NvidiaDriver(("0000:41:00.0", percent)).load)() is None


def test_without_nvidias_libraries_there_is_no_reading_and_no_second_search() -> None:
    searches: list[str] = []

    def load(name: str) -> Any:
        searches.append(name)
        return no_library(name)

    gauge = nvidia_gauge(0, load)
    assert [gauge(), gauge(), gauge()] == [None, None, None]
    assert len(searches) == 1


def test_an_nvml_too_old_for_what_is_asked_gives_no_reading() -> None:
    driver = NvidiaDriver(("0000:41:00.0", 50))
    del driver.libraries["nvml.dll"].nvmlInit_v2
    gauge = nvidia_gauge(0, driver.load)
    assert [gauge(), gauge()] == [None, None]


@pytest.mark.cuda
def test_nvidias_libraries_answer_under_the_names_that_are_asked_for() -> None:
    cuda = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    assert cuda.cuInit(0) == 0
    share = utilization_gauge("cuda:0")()
    assert share is not None
    assert 0 <= share <= 1


# Apple ---------------------------------------------------------------------------------------------------------------


class AppleDriver:
    """IOKit and Core Foundation over a heap of objects, at addresses that an int of C does not hold; each has a count
    of its owners, and asking for what is not there fails the test."""

    SERVICE = 0x9003
    DICTIONARY, NUMBER, STRING = 18, 22, 7

    def __init__(self, statistics: object) -> None:
        self.statistics = statistics
        self.services = True
        self.heap: dict[int, object] = {}
        self.owners: dict[int, int] = {}
        self.faults: list[str] = []
        self.next = 0x7F00_0000_1000
        iokit = SimpleNamespace(
            IOServiceMatching=self.function(c_void_p, c_char_p)(lambda name: self.make({"class": name.decode()})),
            IOServiceGetMatchingService=self.function(c_uint32, c_uint32, c_void_p)(self.find),
            IORegistryEntryCreateCFProperty=self.function(c_void_p, c_uint32, c_void_p, c_void_p, c_uint32)(self.copy),
        )
        core = SimpleNamespace(
            CFStringCreateWithCString=self.function(c_void_p, c_void_p, c_char_p, c_uint32)(self.text),
            CFGetTypeID=self.function(c_ulong, c_void_p)(self.kind),
            CFDictionaryGetTypeID=self.function(c_ulong)(lambda: self.DICTIONARY),
            CFDictionaryGetValue=self.function(c_void_p, c_void_p, c_void_p)(self.value),
            CFNumberGetTypeID=self.function(c_ulong)(lambda: self.NUMBER),
            CFNumberGetValue=self.function(c_ubyte, c_void_p, c_long, POINTER(c_int64))(self.number),
            CFRelease=self.function(None, c_void_p)(self.release),
        )
        self.libraries = {"IOKit": iokit, "CoreFoundation": core}

    def load(self, path: str) -> Any:
        name = path.rpartition("/")[2]
        assert path == f"/System/Library/Frameworks/{name}.framework/{name}"
        return self.libraries[name]

    def function(self, result: Any, *arguments: Any) -> Callable[[Callable[..., Any]], Any]:
        """A C function; what it raises is a fault that the test shows, since ctypes would drop it."""

        def wrap(call: Callable[..., Any]) -> Any:
            def checked(*values: Any) -> Any:
                try:
                    return call(*values)
                except Exception as error:  # noqa: BLE001
                    self.faults.append(repr(error))
                    return None if result is None else 0

            return CFUNCTYPE(result, *arguments)(checked)

        return wrap

    def make(self, thing: object) -> int:
        self.next += 0x10
        self.heap[self.next], self.owners[self.next] = thing, 1
        return self.next

    def release(self, address: int) -> None:
        thing = self.heap[address]
        self.owners[address] -= 1
        if not self.owners[address]:
            for inner in thing.values() if isinstance(thing, dict) and "class" not in thing else ():
                self.release(inner)
            del self.heap[address], self.owners[address]

    def find(self, port: int, matching: int) -> int:
        assert (port, self.heap[matching]) == (0, {"class": "IOAccelerator"})
        self.release(matching)
        return self.SERVICE if self.services else 0

    def text(self, allocator: int | None, text: bytes, encoding: int) -> int:
        assert (allocator, encoding) == (None, 0x08000100)
        return self.make(text.decode())

    def copy(self, service: int, key: int, allocator: int | None, flags: int) -> int:
        assert (service, self.heap[key], allocator, flags) == (self.SERVICE, "PerformanceStatistics", None, 0)
        if isinstance(self.statistics, dict):
            return self.make({key: self.make(value) for key, value in self.statistics.items()})
        return self.make(self.statistics) if self.statistics is not None else 0

    def kind(self, address: int) -> int:
        thing = self.heap[address]
        return self.DICTIONARY if isinstance(thing, dict) else self.NUMBER if isinstance(thing, int) else self.STRING

    def value(self, table: int, key: int) -> int:
        things, name = self.heap[table], self.heap[key]
        assert isinstance(things, dict)
        return int(things.get(name, 0))

    def number(self, address: int, kind: int, value: Any) -> int:
        number = self.heap[address]
        assert isinstance(number, int)
        assert kind == 4
        value[0] = number
        return 1


@pytest.fixture
def apple_chip(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {"hw.optional.arm64": b"\1", "machdep.cpu.brand_string": b"Apple M3 Max\0"}
    monkeypatch.setattr(darwin, "sysctl", variables.get)


def busy(percent: object) -> dict[str, object]:
    return {"Renderer Utilization %": 3, "Device Utilization %": percent, "Tiler Utilization %": 2}


@pytest.mark.usefixtures("apple_chip")
def test_apples_gpu_is_as_busy_as_its_driver_says_now() -> None:
    driver = AppleDriver(busy(0))
    gauge = apple_gauge(0, driver.load)
    assert gauge() == 0.0
    driver.statistics = busy(29)
    assert gauge() == pytest.approx(0.29)
    assert driver.faults == []


@pytest.mark.usefixtures("apple_chip")
def test_readings_of_apples_gpu_leave_nothing_behind_but_the_two_keys() -> None:
    driver = AppleDriver(busy(29))
    for _ in range(3):
        gauge = apple_gauge(0, driver.load)
        assert {gauge() for _ in range(100)} == {0.29}
    driver.statistics = busy("?")
    assert gauge() is None
    assert sorted(map(str, driver.heap.values())) == ["Device Utilization %", "PerformanceStatistics"]
    assert driver.faults == []


@pytest.mark.usefixtures("apple_chip")
@pytest.mark.parametrize("statistics", [None, {}, 5, "text", busy("29"), busy({}), *map(busy, STRANGE_PERCENTS)])
def test_an_apple_driver_that_does_not_tell_is_not_guessed_at(statistics: object) -> None:
    driver = AppleDriver(statistics)
    assert apple_gauge(0, driver.load)() is None
    assert driver.faults == []


@pytest.mark.usefixtures("apple_chip")
def test_a_mac_that_shows_no_accelerator_gives_no_reading() -> None:
    driver = AppleDriver(busy(29))
    driver.services = False
    assert apple_gauge(0, driver.load)() is None
    assert driver.faults == []


@pytest.mark.usefixtures("apple_chip")
def test_there_is_one_apple_gpu() -> None:
    assert apple_gauge(1, AppleDriver(busy(29)).load)() is None


def test_an_intel_macs_graphics_are_not_taken_for_apples_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(darwin, "sysctl", lambda name: None)
    assert apple_gauge(0, AppleDriver(busy(29)).load)() is None


def test_without_apples_frameworks_there_is_no_reading() -> None:
    assert apple_gauge(0, no_library)() is None


@pytest.mark.metal
def test_apples_driver_answers_under_the_names_that_are_asked_for() -> None:
    share = utilization_gauge("metal")()
    assert share is not None
    assert 0 <= share <= 1
