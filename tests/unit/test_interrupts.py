"""Ctrl-C while a model is loaded stops the loading, and leaves no half of a model behind."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes import FakeBackend, FakeRunner, FakeTokenizer, fake_info
from gguf_files import write_model

from inference import load_model, registry
from inference.engine import serving
from inference.engine.engine import Engine
from inference.errors import LoadAbortedError, LoadError, ModelClosedError
from inference.interrupts import deferred_interrupt
from inference.options import LoadOptions
from inference.protocols import TextModel


def ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.fixture(autouse=True)
def heeded() -> Iterator[None]:
    """As in a terminal: a process that was started in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_it_is_raised_when_the_block_ends() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), deferred_interrupt() as interrupts:
        ctrl_c()
        done.append(len(interrupts))
    assert done == [1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_one_is_raised_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), deferred_interrupt():
        ctrl_c()
        ctrl_c()
        pytest.fail("it was put off")


def test_an_error_in_the_block_gives_way_to_it() -> None:
    with pytest.raises(KeyboardInterrupt), deferred_interrupt():
        ctrl_c()
        raise LoadAbortedError("stopped")


def test_a_handler_that_raises_nothing_is_called_as_ever() -> None:
    called: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: called.append(number))
    with deferred_interrupt() as interrupts:
        ctrl_c()
        ctrl_c()
        assert (len(called), interrupts) == (2, [])


def test_a_handler_that_raises_what_it_likes_is_put_off_too() -> None:
    def leave(*_: object) -> None:
        raise SystemExit(3)

    signal.signal(signal.SIGINT, leave)
    done = []
    with pytest.raises(SystemExit, match="3"), deferred_interrupt():
        ctrl_c()
        done.append(1)
    assert done == [1]


def test_without_one_nothing_happens_on_any_thread() -> None:
    noted: list[object] = []

    def block() -> None:
        with deferred_interrupt() as interrupts:
            noted.append(interrupts)

    block()
    thread = threading.Thread(target=block)
    thread.start()
    thread.join()
    assert noted == [[], []]


class Interrupted(FakeBackend):
    """While it loads, Ctrl-C comes; `late`: when the model is there already. Else loading ends with `stopped`."""

    load_options = frozenset({"progress"})

    def __init__(self, *, late: bool = False, stopped: Exception | None = None) -> None:
        super().__init__("torch")
        self.late = late
        self.stopped = stopped or LoadAbortedError("stopped")
        self.models: list[TextModel] = []
        self.told: list[bool | None] = []

    def load_model(self, path: Path, options: LoadOptions) -> TextModel:
        assert options.progress is not None
        self.told.append(options.progress(0.1))
        if not self.late:
            ctrl_c()
            self.told.append(options.progress(0.2))
            raise self.stopped
        self.models.append(super().load_model(path, options))
        ctrl_c()
        return self.models[0]


@pytest.fixture
def no_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_installed", dict)
    monkeypatch.setattr(registry, "_registered", {})


@pytest.mark.usefixtures("no_backends")
@pytest.mark.parametrize("late", [False, True])
def test_loading_is_stopped_and_no_model_is_left(late: bool, tmp_path: Path) -> None:
    backend = Interrupted(late=late)
    registry.register(backend)
    shares: list[float] = []
    with pytest.raises(KeyboardInterrupt):
        load_model(write_model(tmp_path / "model.gguf"), progress=shares.append)
    assert shares == [0.1], "the caller's own function is called as ever, until then"
    assert backend.told == ([None] if late else [None, False])
    for model in backend.models:
        with pytest.raises(ModelClosedError):
            model.generate("a")


class StopError(Exception):
    """A program's own."""


@pytest.mark.usefixtures("no_backends")
@pytest.mark.parametrize("stopped", [LoadAbortedError("stopped"), OSError("cut off"), LoadError("MLX was interrupted")])
def test_what_a_programs_own_handler_raises_is_no_failure_of_an_engine(stopped: Exception, tmp_path: Path) -> None:
    backend, other = Interrupted(stopped=stopped), FakeBackend("zebra")
    registry.register(backend)
    registry.register(other)

    def stop(*_: object) -> None:
        raise StopError

    signal.signal(signal.SIGINT, stop)
    for options in ({}, {"backend": "torch"}):
        with pytest.raises(StopError):
            load_model(write_model(tmp_path / "model.gguf"), options=LoadOptions(**options))
    assert not other.loaded


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="Windows sends no signals to threads")
def test_a_second_one_does_not_wait_for_a_loading_on_the_engines_thread() -> None:
    building, may_go_on = threading.Event(), threading.Event()
    runner = FakeRunner()

    def build() -> FakeRunner:
        building.set()
        may_go_on.wait(30)
        return runner

    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        building.wait(30)
        signal.pthread_kill(main, signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        Engine(build, "fake")
    assert not runner.freed
    may_go_on.set()
    for _ in range(1000):
        if runner.freed:
            break
        time.sleep(0.01)
    assert runner.freed


def test_a_runner_is_freed_once_whoever_had_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for failing in ("Engine", "EngineModel"):
        runner = FakeRunner()
        frees: list[int] = []
        monkeypatch.setattr(runner, "free", lambda frees=frees: frees.append(1))
        with monkeypatch.context() as patched:

            def fail(*arguments: object, **keywords: object) -> None:
                raise RuntimeError("can't start new thread")

            patched.setattr(serving, failing, fail)
            with pytest.raises(RuntimeError, match="can't start"):
                serving.serve_runner(runner, FakeTokenizer(), fake_info(), LoadOptions(), device="cpu", began=0)
        assert frees == [1], failing
