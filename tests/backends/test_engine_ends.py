"""The ends of models and of processes that have some, on every engine: see `docs/faults.md`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engines_under_fault import backends, posix
from inference_llama_cpp import vetting

from inference import load_model

pytestmark = [pytest.mark.real_model, pytest.mark.usefixtures("nothing_is_known")]


# The end of the process -----------------------------------------------------------------------------------------------

PROGRAM = """
import sys, threading, time
from inference import InferenceError, load_model
model = load_model({path!r}, **{how!r})
stream = model.generate("the", max_tokens=100000, ignore_eos=True)
next(stream)
{rest}
"""
ENDS = {
    "with a stream open": "",
    "with a thread that reads": """
def read():
    try:
        list(stream)
    except InferenceError as error:
        assert "model was closed" in str(error)

threading.Thread(target=read, daemon=True).start()
time.sleep(0.1)
""",
    "with many streams": "streams = [model.generate([n], max_tokens=99999, ignore_eos=True) for n in range(20)]",
    "by sys.exit": "sys.exit(0)",
    "with a batch open": "batch = model.batch_generate([[1], [2], [3]], max_tokens=999, ignore_eos=True); next(batch)",
    "with a model in a cycle": "cycle = [model]; cycle.append(cycle); del model, stream",
}


def run(how: dict[str, Any], path: Path, rest: str) -> subprocess.Popen[bytes]:
    return start(PROGRAM.format(path=str(path), how=how, rest=rest))


def start(program: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


@backends
@pytest.mark.parametrize("rest", ENDS.values(), ids=ENDS)
def test_a_program_ends_in_order(rest: str, how: dict[str, Any], tiny_llama: Path) -> None:
    process = run(how, tiny_llama, rest)
    out, errors = process.communicate(timeout=100)
    assert (process.returncode, out, errors) == (0, b"", b"")


@posix
@backends
def test_a_program_that_is_terminated_ends_at_once(how: dict[str, Any], tiny_llama: Path) -> None:
    process = run(how, tiny_llama, "print('ready', flush=True); time.sleep(100)")
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (-signal.SIGTERM, b"")


@posix
@backends
def test_a_forked_process_is_refused_and_its_end_harms_nobody(how: dict[str, Any], tiny_llama: Path) -> None:
    rest = """
import os
from inference.errors import EngineError
child = os.fork()
if child == 0:
    for action in (lambda: list(stream), lambda: model.generate("a")):
        try:
            action()
            os._exit(1)
        except EngineError as error:
            assert "before this process was forked" in str(error)
    model.close()
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
assert next(stream).finish is None
"""
    process = run(how, tiny_llama, rest)
    out, errors = process.communicate(timeout=100)
    assert (process.returncode, out) == (0, b""), errors.decode()


INTERRUPTED = """
import gc, os, random, signal, sys, threading, time
from inference import load_model

handles = []
if {how!r}["backend"] == "llama_cpp":
    from inference_llama_cpp.library import bindings
    load, free = bindings.llama_model_load_from_file, bindings.llama_model_free
    def counted(*arguments):
        handle = load(*arguments)
        if handle:
            handles.append(1)
        return handle
    def freed(handle):
        handles.pop()
        free(handle)
    bindings.llama_model_load_from_file, bindings.llama_model_free = counted, freed

def once():
    with load_model({path!r}, context_length=256, **{how!r}) as model:
        model.chat([{{"role": "user", "content": "the"}}], max_tokens=4, ignore_eos=True).text()
        next(model.classify(["the"], labels=["a", "b"]))
        list(model.batch_generate(["the", "in"], max_tokens=2))

def held():
    gc.collect()
    for _ in range(100):  # a model that was dropped while it was loaded ends by itself
        if threading.active_count() == 1:
            break
        time.sleep(0.05)
    return len(os.listdir("/proc/self/task")), [thread.name for thread in threading.enumerate()], len(handles)

signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background would ignore it
once()
began = time.monotonic()
once()
span = time.monotonic() - began
before, draws, interrupted = held(), random.Random(0), 0
main = threading.main_thread().ident
for _ in range(200):
    timer = threading.Timer(draws.random() * span, signal.pthread_kill, (main, signal.SIGINT))
    try:
        timer.start()
        while timer.is_alive():
            once()
        time.sleep(0.01)
    except KeyboardInterrupt:
        interrupted += 1
    timer.cancel()
once()
assert held() == before, (held(), before)
assert interrupted > 150, interrupted
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="the threads of C libraries are counted on Linux")
@backends
def test_ctrl_c_at_any_point_of_loading_asking_and_closing_leaves_nothing_behind(
    how: dict[str, Any], tiny_llama: Path
) -> None:
    process = start(INTERRUPTED.format(path=str(tiny_llama), how=how))
    out, errors = process.communicate(timeout=200)
    assert (process.returncode, out) == (0, b""), errors.decode()
    assert b"ctypes" not in errors, "an interrupt was lost in a function that C called"


# What is left of a model ----------------------------------------------------------------------------------------------


@backends
def test_nothing_is_left_of_a_model_that_is_closed(
    how: dict[str, Any], tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()

    def counted() -> list[int]:
        folder = Path("/proc/self/fd")
        return [
            threading.active_count(),
            len(list(folder.iterdir())) if folder.is_dir() else 0,
            len(list((tmp_path / "temporary").iterdir())),
        ]

    for _ in range(2):  # what libraries start once is there
        load_model(tiny_llama, **how).close()
    before = counted()
    for _ in range(5):
        with load_model(tiny_llama, **how) as model:
            model.generate("the", max_tokens=2).text()
    settle = time.monotonic() + 5
    while any(now > then for now, then in zip(counted(), before, strict=True)) and time.monotonic() < settle:
        time.sleep(0.02)
    assert [max(now - then, 0) for now, then in zip(counted(), before, strict=True)] == [0, 0, 0]


@pytest.fixture(autouse=True, scope="module")
def no_worker_is_left() -> Iterator[None]:
    yield
    vetting.TRIALS.worker.close()
