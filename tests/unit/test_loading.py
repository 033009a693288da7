"""`load_model` chooses among fake backends."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import FakeBackend
from gguf_files import write_model

from inference import load_model, registry
from inference.choosing import choose
from inference.errors import (
    BackendNotFoundError,
    BackendUnavailableError,
    CorruptFileError,
    InsufficientMemoryError,
    LoadAbortedError,
    LoadError,
    ModelIsDirectoryError,
    ModelNotFoundError,
    OptionValueError,
    UnknownOptionError,
    UnsupportedModelError,
    UnsupportedOptionError,
)
from inference.gguf import reader
from inference.hardware import GPU, machine
from inference.options import LoadOptions
from inference.speeds import Speed, Speeds, machine_key, subject_of, versions_of
from inference.types import Availability

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


def test_an_error_that_all_backends_have_in_common_is_raised_as_what_it_is(path: Path, register: Register) -> None:
    register("metal", supported=False, error=OptionValueError("metal takes less"))
    register("rocm", supported=False, error=OptionValueError("rocm takes less"))
    with pytest.raises(OptionValueError, match="metal takes less"):
        load_model(path)
    register("torch", supported=False, error=InsufficientMemoryError("too big"))
    with pytest.raises(UnsupportedModelError, match="no backend here can run this file"):
        load_model(path)


def test_a_backend_that_trips_over_the_file_leaves_it_to_the_others(
    path: Path, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trip(*_: object) -> None:
        raise CorruptFileError("a key is missing")

    monkeypatch.setattr(register("metal"), "supports", trip)
    register("torch")
    with load_model(path) as model:
        assert "(metal: a key is missing)" in model.info().choice


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


# What is measured -----------------------------------------------------------------------------------------------------


@pytest.fixture
def measure(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Keeps figures of backends, in decoding and prefill."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def keep(**rates: tuple[float, float]) -> None:
        header = reader.read_header(path)
        entries = [
            Speed(
                machine=machine_key(),
                versions=versions_of(registry.get_backend(name)),
                subject=subject_of(header),
                backend=name,
                device="cpu",
                rates={"decode": {"1 sequence": decode}, "prefill": {"512 tokens": prefill}},
            )
            for name, (decode, prefill) in rates.items()
        ]
        Speeds.kept().with_(entries).keep()

    return keep


def test_the_engine_that_was_measured_to_be_the_fastest_is_taken_for_each_workload(
    path: Path, register: Register, measure: Callable[..., None]
) -> None:
    for name in ("metal", "llama_cpp", "torch"):
        register(name)
    measure(metal=(10, 300), llama_cpp=(30, 200), torch=(20, 900))
    with load_model(path) as model:
        assert model.info().backend == "llama_cpp"
        assert "fastest measured here for decode: llama_cpp 30 tokens/s, torch 20 tokens/s" in model.info().choice
    with load_model(path, workload="prefill") as model:
        assert model.info().backend == "torch"
    with load_model(path, backend="metal", workload="prefill") as model:
        assert model.info().backend == "metal"
        assert model.info().choice == "metal on metal device: it was asked for."


def test_an_engine_that_was_not_measured_keeps_the_assumed_order_for_all(
    path: Path, register: Register, measure: Callable[..., None]
) -> None:
    for name in ("metal", "llama_cpp", "torch"):
        register(name)
    measure(llama_cpp=(30, 200), torch=(20, 900))
    with load_model(path) as model:
        assert model.info().backend == "metal"
        assert "assumed, not measured: `inference tune`" in model.info().choice


def test_an_engine_that_cannot_run_the_file_needs_no_figure(
    path: Path, register: Register, measure: Callable[..., None]
) -> None:
    register("metal", supported=False)
    for name in ("llama_cpp", "torch"):
        register(name)
    measure(llama_cpp=(30, 200), torch=(40, 900))
    assert [each.backend.name for each in choose(reader.read_header(path), LoadOptions())] == ["torch", "llama_cpp"]


def test_a_workload_that_is_none_is_named(register: Register) -> None:
    with pytest.raises(OptionValueError, match="`workload` must be one of decode, prefill; got 'train'"):
        load_model("nowhere.gguf", workload="train")


# What fails, and what lies idle ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [LoadError("out of luck"), RuntimeError("out of luck"), KeyError("out of luck")])
def test_if_an_engine_cannot_load_the_file_the_next_one_is_tried_and_a_warning_says_why(
    path: Path, register: Register, failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    register("metal", failure=failure)
    register("torch")
    with load_model(path) as model:
        assert model.info().backend == "torch"
        assert "(metal could not load it: " in model.info().choice
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "metal on metal device could not load it, so the next engine is tried: " in record.message
    assert "out of luck" in record.message


def test_if_all_fail_the_last_ones_error_is_raised_and_notes_the_others(path: Path, register: Register) -> None:
    register("metal", failure=LoadError("metal is out"))
    register("torch", failure=InsufficientMemoryError("torch is out"))
    with pytest.raises(InsufficientMemoryError, match="torch is out") as raised:
        load_model(path)
    assert raised.value.__notes__ == ["Before that: (metal could not load it: metal is out)"]


@pytest.mark.parametrize(
    "failure", [LoadAbortedError("enough"), OptionValueError("`threads` is wrong"), CorruptFileError("a hole")]
)
def test_what_no_other_engine_would_mend_is_raised_at_once(path: Path, register: Register, failure: Exception) -> None:
    register("metal", failure=failure)
    other = register("torch")
    with pytest.raises(type(failure)):
        load_model(path)
    assert not other.loaded


def test_a_named_backend_that_fails_is_an_error_and_no_other_is_tried(path: Path, register: Register) -> None:
    register("metal", failure=LoadError("metal is out"))
    other = register("torch")
    with pytest.raises(LoadError, match="metal is out"):
        load_model(path, backend="metal")
    assert not other.loaded


@pytest.mark.parametrize(
    ("failure", "kind"),
    [(MemoryError("no room"), InsufficientMemoryError), (ValueError("eps must be positive"), LoadError)],
)
def test_without_memory_to_load_the_error_says_so(
    failure: Exception, kind: type[Exception], path: Path, register: Register
) -> None:
    """What an engine's libraries raise comes as an error of ours."""
    register("metal", failure=failure)
    with pytest.raises(kind, match=f"metal on metal device.*{failure}") as raised:
        load_model(path, backend="metal")
    assert raised.value.__cause__ is failure


CARD = Availability("cuda:0", "NVIDIA L4", False, False, "it is built without CUDA.", "build it anew")


def test_a_cpu_that_computes_beside_an_idle_gpu_is_a_warning_with_the_reason(
    path: Path, register: Register, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    register("llama_cpp", devices=[CARD])
    register("torch", devices=[replace(CARD, device="rocm:0", description="no AMD GPU")])
    here = replace(machine(), gpus=(GPU("nvidia", "NVIDIA L4", None, None, 0),))
    monkeypatch.setattr("inference.loading.machine", lambda: here)
    load_model(path).close()
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert record.message == (
        "small.gguf runs on the CPU although there is a GPU. "
        "llama_cpp on NVIDIA L4: it is built without CUDA. Try: build it anew"
    )
    caplog.clear()
    load_model(path, backend="torch").close()  # which knows no such GPU
    load_model(path, device="cpu").close()
    monkeypatch.setattr("inference.loading.machine", lambda: replace(here, gpus=()))
    load_model(path).close()
    assert not caplog.records
