"""`load_model` of a model folder chooses among the backends that load folders."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fakes import FakeBackend, FakeFolderBackend
from folders import CHAT_TEMPLATE, write_folder
from gguf_files import write_model

from inference import load_model, registry
from inference.choosing import backends_for
from inference.errors import (
    BackendUnavailableError,
    InsufficientMemoryError,
    ModelIsDirectoryError,
    TruncatedFileError,
    UnsupportedModelError,
    UnsupportedOptionError,
)
from inference.folder import Folder
from inference.gguf.reader import Header
from inference.loading import read_model
from inference.options import GenerateOptions
from inference.protocols import FolderBackend

Register = Callable[..., FakeFolderBackend]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("folders") / "tiny-llama").path


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Iterator[Register]:
    """Registers a backend that loads folders, or with `folders=False` one that does not; there are no others."""
    monkeypatch.setattr(registry, "_installed", dict)
    monkeypatch.setattr(registry, "_registered", {})

    def register(name: str, *, folders: bool = True, **arguments: object) -> FakeBackend:
        backend = FakeFolderBackend(name, **arguments) if folders else FakeBackend(name, **arguments)  # type: ignore[arg-type]
        registry.register(backend)
        return backend

    yield register  # type: ignore[misc]


def test_the_first_available_backend_that_loads_folders_is_taken(path: Path, register: Register) -> None:
    register("rocm", folders=False)
    register("metal", available=False)
    expected = register("torch")
    with load_model(path) as model:
        assert model.generate("hi", max_tokens=3).text()
    (folder, _), *_ = expected.loaded_folders
    assert (folder.path, folder.architecture) == (path, "llama")
    assert expected.loaded == []


def test_the_model_is_described_by_its_folder(path: Path, register: Register) -> None:
    register("metal")
    with load_model(path) as model:
        info = model.info()
    assert (info.path, info.name, info.architecture, info.backend) == (path, "tiny-llama", "llama", "metal")
    assert (info.quantization, info.layers, info.vocabulary_size, info.train_context_length) == ("F32", 2, 384, 512)
    assert (info.chat_template, info.sampling) == (CHAT_TEMPLATE, GenerateOptions(temperature=0.7))
    with load_model(path, chat_template="{{ 1 }}") as model:
        assert model.info().chat_template == "{{ 1 }}"


def test_a_path_as_text_or_with_a_slash_is_the_same_folder(path: Path, register: Register) -> None:
    register("metal")
    for spelling in (str(path), f"{path}{os.sep}"):
        with load_model(spelling) as model:
            assert model.info().name == "tiny-llama"


def test_a_gguf_file_goes_the_files_way_on_the_same_backend(tmp_path: Path, register: Register) -> None:
    backend = register("metal")
    write_model(tmp_path / "small.gguf")
    load_model(tmp_path / "small.gguf").close()
    assert len(backend.loaded) == 1
    assert backend.loaded_folders == []


def test_a_backend_that_cannot_run_the_folder_is_passed_over_and_the_log_says_why(
    path: Path, register: Register, caplog: pytest.LogCaptureFixture
) -> None:
    register("metal", supported=False)
    register("rocm")
    with caplog.at_level(logging.INFO):
        load_model(path).close()
    assert "tiny-llama: rocm on rocm device: it runs anything. (metal: it runs nothing.)" in caplog.text


def test_a_named_backend_that_loads_files_alone_is_refused_and_says_who_loads_folders(
    path: Path, register: Register
) -> None:
    register("metal", automatic=False)
    register("llama_cpp", folders=False, available=False)
    with pytest.raises(UnsupportedModelError, match=r"'llama_cpp' loads GGUF files alone\..*: 'metal'\. Or take the"):
        load_model(path, backend="llama_cpp")


def test_a_named_backend_loads_the_folder_even_if_it_is_not_chosen_by_itself(path: Path, register: Register) -> None:
    register("metal", automatic=False)
    for options in ({"backend": "metal"}, {"backend": "metal", "device": "cpu"}, {"device": "cpu"}):
        with load_model(path, **options) as model:
            assert model.info().backend == "metal"


def test_if_none_is_chosen_by_itself_the_error_says_how_to_ask_for_one(path: Path, register: Register) -> None:
    register("llama_cpp", folders=False)
    register("metal", automatic=False)
    with pytest.raises(BackendUnavailableError) as refused:
        load_model(path)
    said = str(refused.value)
    assert str(path) in said
    assert 'backend="metal", device="cpu" runs it on metal device.' in said
    assert said.endswith("Or take the model's GGUF file.")


def test_if_none_is_available_the_error_says_what_would_help(path: Path, register: Register) -> None:
    register("llama_cpp", folders=False)
    register("metal", available=False)
    with pytest.raises(BackendUnavailableError, match=r"metal: this machine lacks what it needs\. Try: install metal"):
        load_model(path)


def test_if_none_is_installed_the_error_says_what_to_install(path: Path, register: Register) -> None:
    register("llama_cpp", folders=False)
    with pytest.raises(BackendUnavailableError, match=r"no installed backend loads folders\. Try: pip install .*mlx"):
        load_model(path)
    with pytest.raises(UnsupportedModelError, match=r"Backends that load folders: none is installed"):
        load_model(path, backend="llama_cpp")


def test_options_are_checked_as_for_files(path: Path, register: Register) -> None:
    backend = register("metal")
    for options in ({"backend": "metal"}, {}):
        with pytest.raises(UnsupportedOptionError, match="'metal' has no option `mlock`"):
            load_model(path, mlock=True, **options)
    load_model(path, context_length=77).close()
    (_, options), *_ = backend.loaded_folders
    assert options.context_length == 77
    with pytest.raises(BackendUnavailableError, match=r"'cuda:7'. Devices: cpu"):
        load_model(path, device="cuda:7")


def test_the_only_backends_own_error_is_raised(path: Path, register: Register) -> None:
    register("metal", supported=False, error=InsufficientMemoryError("too big"))
    for options in ({"backend": "metal"}, {}):
        with pytest.raises(InsufficientMemoryError, match="too big"):
            load_model(path, **options)


def test_if_no_backend_can_run_the_folder_each_one_says_why(path: Path, register: Register) -> None:
    register("metal", supported=False)
    register("rocm", supported=False)
    with pytest.raises(UnsupportedModelError, match=r"can run this folder\. metal: it runs nothing. rocm: it runs"):
        load_model(path)


def test_a_damaged_folder_is_refused_before_any_backend_is_asked(tmp_path: Path, register: Register) -> None:
    folder = write_folder(tmp_path / "cut")
    folder.paths[0].write_bytes(folder.paths[0].read_bytes()[:-1])
    with pytest.raises(TruncatedFileError, match="download it again"):
        load_model(folder.path)


def test_a_directory_that_is_no_model_says_what_to_name(tmp_path: Path, register: Register) -> None:
    with pytest.raises(ModelIsDirectoryError, match=r"without a config\.json\. Name a \.gguf file, or a folder with"):
        load_model(tmp_path)
    (tmp_path / "model-Q4_0.gguf").touch()
    with pytest.raises(ModelIsDirectoryError, match=r"such as model-Q4_0\.gguf"):
        load_model(tmp_path)


def test_what_is_read_says_of_which_kind_it_is_and_who_loads_it(path: Path, tmp_path: Path, register: Register) -> None:
    register("llama_cpp", folders=False)
    register("metal")
    write_model(tmp_path / "small.gguf")
    folder, header = read_model(path), read_model(tmp_path / "small.gguf")
    assert isinstance(folder, Folder)
    assert isinstance(header, Header)
    assert [backend.name for backend in backends_for(folder)] == ["metal"]
    assert [backend.name for backend in backends_for(header)] == ["metal", "llama_cpp"]
    assert [isinstance(backend, FolderBackend) for backend in backends_for(header)] == [True, False]
