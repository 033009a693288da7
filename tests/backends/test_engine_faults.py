"""Faults around a model that really computes, on every engine: see `docs/faults.md`."""

from __future__ import annotations

import shutil
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
from engines_under_fault import backends, posix
from hostile.tiny_files import tiny_file
from inference_llama_cpp import vetting

from inference import load_model, trials
from inference.errors import (
    CorruptFileError,
    InferenceError,
    LoadError,
    ModelFileError,
    TruncatedFileError,
)
from inference.gguf.reader import read_header
from inference.options import LoadOptions

pytestmark = [pytest.mark.real_model, pytest.mark.usefixtures("nothing_is_known")]


# The file -------------------------------------------------------------------------------------------------------------


@posix
@backends
def test_a_file_that_is_deleted_or_replaced_under_a_running_model_changes_nothing(
    how: dict[str, Any], tiny_llama: Path
) -> None:
    with load_model(tiny_llama, **how) as model:
        expected = model.generate("the", max_tokens=8, ignore_eos=True).text()
        tiny_llama.unlink()
        tiny_llama.write_bytes(b"another file")
        assert model.generate("the", max_tokens=8, ignore_eos=True, cache_scope="new").text() == expected


@backends
def test_a_file_that_was_cut_after_the_header_was_read_is_refused(how: dict[str, Any], tiny_llama: Path) -> None:
    whole = tiny_llama.read_bytes()
    load_model(tiny_llama, **how).close()  # known good
    tiny_llama.write_bytes(whole[:-5000])
    with pytest.raises(TruncatedFileError):
        load_model(tiny_llama, **how)


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text on other systems")
@backends
def test_a_file_whose_name_is_no_text_loads(how: dict[str, Any], tiny_llama: Path) -> None:
    odd = tiny_llama.rename(tiny_llama.with_name("\udcff.gguf"))
    with load_model(odd, **how) as model:
        assert model.generate("the", max_tokens=2, ignore_eos=True).text()


# llama.cpp's trial ----------------------------------------------------------------------------------------------------


def with_a_half_bias(path: Path) -> Path:
    """A file at which llama.cpp aborts once it computes."""
    from hostile.mutations import mutations

    wanted = "type of tensor blk.1.ffn_gate_inp.bias: 1"
    path.write_bytes(next(each.data for each in mutations(tiny_file("gpt-oss")) if each.name == wanted))
    return path


@posix
def test_a_file_that_would_end_the_process_is_refused_with_llama_cpps_own_words(tiny_llama: Path) -> None:
    with pytest.raises(
        LoadError, match=r"would have ended this process on this model.*SIGABRT.*binary_op: unsupported types"
    ):
        load_model(with_a_half_bias(tiny_llama), backend="llama_cpp")
    with pytest.raises(LoadError, match="would have ended"):  # it is never taken for good
        load_model(tiny_llama, backend="llama_cpp")


def test_a_file_is_tried_once_and_known_by_what_it_says_wherever_it_lies(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []
    call = vetting.TRIALS.worker.call
    monkeypatch.setattr(vetting.TRIALS.worker, "call", lambda *args: tried.append(args) or call(*args))
    for each in (tiny_llama, tiny_llama, Path(shutil.copy(tiny_llama, tiny_llama.with_name("copy.gguf")))):
        vetting.vet(read_header(each), LoadOptions())
    assert len(tried) == 1
    data = bytearray(tiny_llama.read_bytes())
    data[data.index(b"llama.rope.freq_base") + 25] ^= 1
    tiny_llama.write_bytes(data)
    vetting.vet(read_header(tiny_llama), LoadOptions())
    assert len(tried) == 2, "another file"


def test_the_trial_can_be_turned_off(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unwanted(*arguments: object) -> None:
        raise AssertionError("it was tried")

    monkeypatch.setattr(vetting.TRIALS.worker, "call", unwanted)
    with load_model(tiny_llama, backend="llama_cpp", trial_load=False) as model:
        assert model.generate("the", max_tokens=1, ignore_eos=True).text() is not None


def test_where_it_cannot_be_tried_a_warning_says_so_and_the_file_loads(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    vetting.TRIALS.worker.close()
    monkeypatch.setattr(sys, "executable", "")
    load_model(tiny_llama, backend="llama_cpp").close()
    assert "is loaded without a trial in a process of its own" in caplog.text


def test_a_cache_that_cannot_be_written_is_a_warning(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    (tmp_path / "no folder").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "no folder"))
    load_model(tiny_llama, backend="llama_cpp").close()
    assert "cannot be remembered" in caplog.text


@pytest.mark.parametrize("error", [PackageNotFoundError("mlx"), RuntimeError("Could not determine home directory.")])
def test_where_nothing_can_be_remembered_files_are_tried_and_load(
    error: Exception, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unknown(*_: object) -> str:
        raise error

    monkeypatch.setattr(trials, "version", unknown)
    load_model(tiny_llama, backend="llama_cpp").close()
    assert "cannot be remembered" in caplog.text


def test_a_file_that_is_refused_in_order_is_refused_in_the_words_of_this_process(tiny_llama: Path) -> None:
    data = tiny_llama.read_bytes().replace(b"llama", b"lamma")
    tiny_llama.write_bytes(data)
    with pytest.raises(InferenceError, match="does not know the architecture 'lamma'"):
        load_model(tiny_llama, backend="llama_cpp")


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF\x03\x00\x00\x00", b"\x00" * 100, b"GGUF" + b"\xff" * 100])
def test_a_file_of_a_few_bytes_is_refused_before_any_engine(content: bytes, tiny_llama: Path) -> None:
    tiny_llama.write_bytes(content)
    with pytest.raises(ModelFileError):
        load_model(tiny_llama)


@backends
def test_damaged_weights_are_an_error_and_not_a_text(how: dict[str, Any], tiny_llama: Path) -> None:
    header = read_header(tiny_llama)
    tensor = header.tensors["blk.0.ffn_down.weight"]
    data = bytearray(tiny_llama.read_bytes())
    data[tensor.offset : tensor.offset + tensor.size_bytes] = b"\xff" * tensor.size_bytes  # NaN
    tiny_llama.write_bytes(data)
    with load_model(tiny_llama, **how) as model, pytest.raises(InferenceError, match="no finite logits"):
        model.generate("the", max_tokens=3).text()


def test_a_damaged_key_is_named(tiny_llama: Path) -> None:
    data = tiny_llama.read_bytes().replace(b"llama.block_count", b"llama.block_comnt")
    tiny_llama.write_bytes(data)
    with pytest.raises((CorruptFileError, LoadError), match="block_count"):
        load_model(tiny_llama, backend="torch")
