"""`load_model` chooses among fake backends."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fakes import FakeBackend
from gguf_files import write_model

from inference import load_model, registry
from inference.errors import (
    BackendNotFoundError,
    BackendUnavailableError,
    InsufficientMemoryError,
    ModelIsDirectoryError,
    ModelNotFoundError,
    UnknownOptionError,
    UnsupportedModelError,
    UnsupportedOptionError,
)
from inference.gguf import reader

Register = Callable[..., FakeBackend]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "small.gguf"
    write_model(path)
    return path


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Iterator[Register]:
    monkeypatch.setattr(registry, "_installed", dict)
    monkeypatch.setattr(registry, "_registered", {})

    def register(name: str, **arguments: object) -> FakeBackend:
        backend = FakeBackend(name, **arguments)  # type: ignore[arg-type]
        registry.register(backend)
        return backend

    yield register


def test_the_first_available_backend_loads_the_file(path: Path, register: Register) -> None:
    register("torch")
    register("metal", available=False)
    expected = register("rocm")
    with load_model(path) as model:
        assert model.info().backend == "rocm"
        assert model.generate("hi", max_tokens=3).text()
    assert [loaded for loaded, _ in expected.loaded] == [path]


def test_a_backend_that_cannot_run_the_file_is_passed_over_and_the_log_says_why(
    path: Path, register: Register, caplog: pytest.LogCaptureFixture
) -> None:
    register("metal", supported=False)
    register("rocm")
    with caplog.at_level(logging.INFO):
        load_model(path).close()
    assert "rocm on rocm device: it runs anything. (metal: it runs nothing.)" in caplog.text


def test_a_named_backend_is_taken_even_if_another_comes_first(path: Path, register: Register) -> None:
    register("metal")
    register("torch", automatic=False)
    with load_model(path, backend="torch") as model:
        assert model.info().backend == "torch"


def test_a_named_backend_that_is_unavailable_is_an_error_and_no_other_is_taken(path: Path, register: Register) -> None:
    register("metal")
    register("rocm", available=False)
    with pytest.raises(BackendUnavailableError, match=r"rocm: this machine lacks.*Try: install rocm"):
        load_model(path, backend="rocm")


def test_an_unknown_backend_is_named(path: Path, register: Register) -> None:
    register("metal")
    with pytest.raises(BackendNotFoundError, match="'tensorrt'"):
        load_model(path, backend="tensorrt")


def test_an_unknown_device_is_named_with_those_that_exist(path: Path, register: Register) -> None:
    register("metal")
    with pytest.raises(BackendUnavailableError, match=r"'cuda:7'. Devices: cpu"):
        load_model(path, device="cuda:7")
    with pytest.raises(BackendUnavailableError, match=r"no device 'cuda:7'. Its devices: cpu"):
        load_model(path, device="cuda:7", backend="metal")


def test_if_no_backend_can_run_the_file_each_one_says_why(path: Path, register: Register) -> None:
    register("metal", supported=False)
    register("rocm", supported=False)
    with pytest.raises(UnsupportedModelError, match=r"metal: it runs nothing. rocm: it runs nothing."):
        load_model(path)


def test_the_only_backends_own_error_is_raised(path: Path, register: Register) -> None:
    register("metal", supported=False, error=InsufficientMemoryError("too big"))
    with pytest.raises(InsufficientMemoryError, match="too big"):
        load_model(path)


def test_an_option_that_the_backend_lacks_is_refused_and_not_ignored(path: Path, register: Register) -> None:
    register("metal")
    for options in ({"backend": "metal"}, {}):
        with pytest.raises(UnsupportedOptionError, match="'metal' has no option `mlock`"):
            load_model(path, mlock=True, **options)


def test_options_reach_the_backend(path: Path, register: Register) -> None:
    backend = register("metal")
    load_model(path, context_length=77, threads=3).close()
    (_, options), *_ = backend.loaded
    assert (options.context_length, options.threads) == (77, 3)


def test_a_misspelt_load_option_is_named_before_anything_is_read(register: Register) -> None:
    with pytest.raises(UnknownOptionError, match="did you mean `context_length`"):
        load_model("nowhere.gguf", contextlength=3)


def test_bad_paths_are_named(tmp_path: Path, register: Register) -> None:
    with pytest.raises(ModelNotFoundError, match=r"nowhere\.gguf"):
        load_model(tmp_path / "nowhere.gguf")
    with pytest.raises(ModelIsDirectoryError):
        load_model(tmp_path)


def test_a_passed_chat_template_reaches_the_model(path: Path, register: Register) -> None:
    register("metal")
    with load_model(path, chat_template="{{ messages[0].content }}") as model:
        assert model.chat([{"role": "user", "content": "hi"}], max_tokens=2).stats is None


def test_the_header_is_read_once(path: Path, register: Register, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Path] = []
    read_file = reader._read_file
    monkeypatch.setattr(reader, "_read_file", lambda path: reads.append(path) or read_file(path))
    headers = []

    class Asking(FakeBackend):
        def load_model(self, path: Path, options: object) -> object:  # type: ignore[override]
            headers.append(reader.read_header(path))
            return None

    registry.register(Asking("metal"))
    load_model(path)
    assert len(reads) == 1
    assert reader.read_header(path) is not headers[0], "after loading, the file is read anew"
