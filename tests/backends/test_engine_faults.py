"""Faults around a model that really computes, on every engine: see `docs/faults.md`."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile.tiny_files import tiny_file
from inference_llama_cpp import vetting

from inference import load_model
from inference.errors import (
    CorruptFileError,
    InferenceError,
    LoadError,
    ModelFileError,
    TruncatedFileError,
)
from inference.gguf.reader import read_header
from inference.options import LoadOptions

pytestmark = pytest.mark.real_model
posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has neither fork nor these signals")
BACKENDS: dict[str, dict[str, Any]] = {
    "llama_cpp": {"backend": "llama_cpp"},
    "torch": {"backend": "torch"},
    "metal": {"backend": "metal", "device": "cpu"},
}
backends = pytest.mark.parametrize("how", BACKENDS.values(), ids=BACKENDS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(tiny_file("llama"))
    return path


@pytest.fixture(autouse=True)
def nothing_is_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


# The file -------------------------------------------------------------------------------------------------------------


@posix
@backends
def test_a_file_that_is_deleted_or_replaced_under_a_running_model_changes_nothing(
    how: dict[str, Any], path: Path
) -> None:
    with load_model(path, **how) as model:
        expected = model.generate("the", max_tokens=8, ignore_eos=True).text()
        path.unlink()
        path.write_bytes(b"another file")
        assert model.generate("the", max_tokens=8, ignore_eos=True, cache_scope="new").text() == expected


@backends
def test_a_file_that_was_cut_after_the_header_was_read_is_refused(how: dict[str, Any], path: Path) -> None:
    whole = path.read_bytes()
    load_model(path, **how).close()  # known good
    path.write_bytes(whole[:-5000])
    with pytest.raises(TruncatedFileError):
        load_model(path, **how)


# llama.cpp's trial ----------------------------------------------------------------------------------------------------


def with_a_half_bias(path: Path) -> Path:
    """A file at which llama.cpp aborts once it computes."""
    from hostile.mutations import mutations

    wanted = "type of tensor blk.1.ffn_gate_inp.bias: 1"
    path.write_bytes(next(each.data for each in mutations(tiny_file("gpt-oss")) if each.name == wanted))
    return path


@posix
def test_a_file_that_would_end_the_process_is_refused_with_llama_cpps_own_words(path: Path) -> None:
    with pytest.raises(
        LoadError, match=r"would have ended this process on this file.*SIGABRT.*binary_op: unsupported types"
    ):
        load_model(with_a_half_bias(path), backend="llama_cpp")
    with pytest.raises(LoadError, match="would have ended"):  # it is never taken for good
        load_model(path, backend="llama_cpp")


def test_a_file_is_tried_once_and_known_by_what_it_says_wherever_it_lies(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []
    call = vetting._worker().call
    monkeypatch.setattr(vetting._worker(), "call", lambda *args: tried.append(args) or call(*args))
    for each in (path, path, Path(shutil.copy(path, path.with_name("copy.gguf")))):
        vetting.vet(read_header(each), LoadOptions())
    assert len(tried) == 1
    data = bytearray(path.read_bytes())
    data[data.index(b"llama.rope.freq_base") + 25] ^= 1
    path.write_bytes(data)
    vetting.vet(read_header(path), LoadOptions())
    assert len(tried) == 2, "another file"


def test_the_trial_can_be_turned_off(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unwanted(*arguments: object) -> None:
        raise AssertionError("it was tried")

    monkeypatch.setattr(vetting._worker(), "call", unwanted)
    with load_model(path, backend="llama_cpp", trial_load=False) as model:
        assert model.generate("the", max_tokens=1, ignore_eos=True).text() is not None


def test_where_it_cannot_be_tried_a_warning_says_so_and_the_file_loads(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    vetting._worker().close()
    monkeypatch.setattr(sys, "executable", "")
    load_model(path, backend="llama_cpp").close()
    assert "is loaded without a trial in a process of its own" in caplog.text


def test_a_cache_that_cannot_be_written_is_a_warning(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    (tmp_path / "no folder").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "no folder"))
    load_model(path, backend="llama_cpp").close()
    assert "cannot be remembered" in caplog.text


def test_a_file_that_is_refused_in_order_is_refused_in_the_words_of_this_process(path: Path) -> None:
    data = path.read_bytes().replace(b"llama", b"lamma")
    path.write_bytes(data)
    with pytest.raises(InferenceError, match="does not know the architecture 'lamma'"):
        load_model(path, backend="llama_cpp")


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF\x03\x00\x00\x00", b"\x00" * 100, b"GGUF" + b"\xff" * 100])
def test_a_file_of_a_few_bytes_is_refused_before_any_engine(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    with pytest.raises(ModelFileError):
        load_model(path)


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
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    program = PROGRAM.format(path=str(path), how=how, rest=rest)
    return subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


@backends
@pytest.mark.parametrize("rest", ENDS.values(), ids=ENDS)
def test_a_program_ends_in_order(rest: str, how: dict[str, Any], path: Path) -> None:
    process = run(how, path, rest)
    out, errors = process.communicate(timeout=100)
    assert (process.returncode, out, errors) == (0, b"", b"")


@posix
@backends
def test_a_program_that_is_terminated_ends_at_once(how: dict[str, Any], path: Path) -> None:
    process = run(how, path, "print('ready', flush=True); time.sleep(100)")
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (-signal.SIGTERM, b"")


@posix
@backends
def test_a_forked_process_is_refused_and_its_end_harms_nobody(how: dict[str, Any], path: Path) -> None:
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
    process = run(how, path, rest)
    out, errors = process.communicate(timeout=100)
    assert (process.returncode, out) == (0, b""), errors.decode()


# What is left of a model ----------------------------------------------------------------------------------------------


@backends
def test_nothing_is_left_of_a_model_that_is_closed(
    how: dict[str, Any], path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
        load_model(path, **how).close()
    before = counted()
    for _ in range(5):
        with load_model(path, **how) as model:
            model.generate("the", max_tokens=2).text()
    settle = time.monotonic() + 5
    while any(now > then for now, then in zip(counted(), before, strict=True)) and time.monotonic() < settle:
        time.sleep(0.02)
    assert [max(now - then, 0) for now, then in zip(counted(), before, strict=True)] == [0, 0, 0]


@pytest.fixture(autouse=True, scope="module")
def no_worker_is_left() -> Iterator[None]:
    yield
    vetting._worker().close()


def test_damaged_weights_are_an_error_and_not_a_text(path: Path) -> None:
    header = read_header(path)
    tensor = header.tensors["blk.0.ffn_down.weight"]
    data = bytearray(path.read_bytes())
    data[tensor.offset : tensor.offset + tensor.size_bytes] = b"\xff" * tensor.size_bytes  # NaN
    path.write_bytes(data)
    for how in BACKENDS.values():
        with load_model(path, **how) as model, pytest.raises(InferenceError, match="no finite logits"):
            model.generate("the", max_tokens=3).text()


def test_a_damaged_key_is_named(path: Path) -> None:
    data = path.read_bytes().replace(b"llama.block_count", b"llama.block_comnt")
    path.write_bytes(data)
    with pytest.raises((CorruptFileError, LoadError), match="block_count"):
        load_model(path, backend="torch")
