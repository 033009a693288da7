"""What goes wrong under a model comes to the caller concerned as a named error; the others are served, and the model is
usable afterwards or says that it is dead. `docs/faults.md` lists what is injected here."""

from __future__ import annotations

import gc
import logging
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from fakes import FakePending, FakeRunner, continuation, fake_model

from inference.engine import engine as engine_module
from inference.engine import watchdog
from inference.engine.model import EngineModel
from inference.errors import EngineError, EngineHungError, InsufficientMemoryError, ModelClosedError
from inference.protocols import Row
from inference.stream import TokenStream

posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has neither fork nor these signals")


@pytest.fixture(params=[0, 1], ids=["no lookahead", "lookahead"])
def lookahead(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def endless(tokens: Sequence[int]) -> int:
    return sum(tokens) % 251


def still_serves(model: EngineModel) -> bool:
    return [token.id for token in model.generate([1, 2], max_tokens=3)] == continuation([1, 2], 3)


# Steps that raise, or give garbage ------------------------------------------------------------------------------------


class Garbling(FakeRunner):
    """Answers are put through `garble`, while it is set."""

    garble: Callable[[list[Any]], list[Any]] | None = None

    def step(self, rows: Sequence[Row]) -> FakePending:
        pending = super().step(rows)
        if self.garble is None:
            return pending
        return FakePending(
            self.garble(pending.tokens()),
            pending.logprobs(),
            pending.scores(),
            pending.logits(),  # type: ignore[arg-type]
        )


@pytest.mark.parametrize(
    "garble",
    [
        lambda tokens: [10**9 for _ in tokens],
        lambda tokens: [None for _ in tokens],
        lambda tokens: ["x" for _ in tokens],
        lambda tokens: [*tokens, 1],
        lambda tokens: tokens[:-1],
        lambda tokens: [],
        lambda tokens: [-5 for _ in tokens],
    ],
    ids=["no such token", "None", "text", "too many", "too few", "none at all", "negative"],
)
def test_an_answer_that_is_garbage_is_an_error_and_the_model_goes_on(
    garble: Callable[[list[Any]], list[Any]], lookahead: int
) -> None:
    runner = Garbling(lookahead=lookahead)
    with fake_model(runner) as model:
        runner.garble = garble
        with pytest.raises(EngineError):
            model.generate([7], max_tokens=5).text()
        runner.garble = None
        assert still_serves(model)
        assert runner.open_slots == {}


def test_a_garbled_row_fails_alone(lookahead: int) -> None:
    runner = Garbling(lookahead=lookahead, slots=3)
    with fake_model(runner) as model:
        runner.garble = lambda tokens: [10**9 if row == 1 else token for row, token in enumerate(tokens)]
        found: dict[int, list[int]] = {0: [], 1: [], 2: []}
        errors = {}
        for index, token in model.batch_generate([[1], [2], [3]], max_tokens=1):
            found[index].append(token.id)
            if token.finish is not None and token.finish.error is not None:
                errors[index] = token.finish.error
        assert list(errors) == [1]
        assert isinstance(errors[1], EngineError)
        assert (found[0], found[2]) == (continuation([1], 1), continuation([3], 1))


@pytest.mark.parametrize("error", [RuntimeError("gone"), MemoryError(), SystemExit(3), KeyboardInterrupt()])
@pytest.mark.parametrize("method", ["step", "open", "trim", "close", "resize"])
def test_whatever_a_runner_raises_is_told_and_nobody_waits_for_ever(
    method: str, error: BaseException, lookahead: int
) -> None:
    runner = FakeRunner(lookahead=lookahead, slots=1, max_slots=4, slot_length=8)
    model = fake_model(runner)

    def broken(*arguments: Any, **keywords: Any) -> Any:
        raise error

    setattr(runner, method, broken)
    streams: list[TokenStream] = []
    for n in range(1, 7):
        try:
            streams.append(model.generate([n] * 12, max_tokens=4))
        except EngineError as told:  # it died before
            assert type(error).__name__ in str(told)
    for stream in streams:
        try:
            stream.text()
        except EngineError as told:
            assert type(error).__name__ in str(told)
    model.close()


# Memory ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [InsufficientMemoryError("none left"), MemoryError(), RuntimeError("out of memory")])
def test_without_memory_to_grow_those_who_wait_are_served_one_by_one(error: Exception, lookahead: int) -> None:
    runner = FakeRunner(lookahead=lookahead, slots=1, max_slots=8)

    def broken(*arguments: Any, **keywords: Any) -> None:
        raise error

    with fake_model(runner) as model:
        runner.resize = broken  # type: ignore[method-assign]
        streams = [model.generate([n], max_tokens=3) for n in range(4)]
        assert [[token.id for token in stream] for stream in streams] == [continuation([n], 3) for n in range(4)]


@pytest.mark.parametrize("error", [InsufficientMemoryError("none left"), MemoryError("none"), RuntimeError("none")])
def test_without_memory_for_a_long_prompt_its_call_fails_and_others_are_served(error: Exception) -> None:
    runner = FakeRunner(slots=1, slot_length=16)

    def broken(*arguments: Any, **keywords: Any) -> None:
        raise error

    with fake_model(runner) as model:
        runner.resize = broken  # type: ignore[method-assign]
        with pytest.raises((EngineError, InsufficientMemoryError), match="none"):
            model.generate([1] * 100, max_tokens=3).text()
        assert still_serves(model)


# Steps that hang ------------------------------------------------------------------------------------------------------


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[EngineModel, FakeRunner, threading.Event]]:
    """A model whose next step waits for the event."""
    monkeypatch.setattr(watchdog, "INTERVAL", 0.02)
    monkeypatch.setattr(engine_module, "INTERVAL", 0.02)
    runner, released = FakeRunner(slots=2), threading.Event()
    model = fake_model(runner, step_timeout=0.2)

    def hang() -> None:
        released.wait()

    runner.before_step = hang
    yield model, runner, released
    released.set()
    model.close()


def test_a_step_that_hangs_ends_all_calls_and_the_model_says_that_it_is_dead(
    hanging: tuple[EngineModel, FakeRunner, threading.Event], caplog: pytest.LogCaptureFixture
) -> None:
    model, _, _ = hanging
    streams = [model.generate([n], max_tokens=3) for n in range(5)]
    batch = model.batch_generate([[1], [2]], max_tokens=2)
    for stream in streams:
        with pytest.raises(EngineHungError, match=r"not come back from a step for 0\.2 seconds"):
            stream.text()
    with pytest.raises(EngineHungError):
        list(batch)
    with pytest.raises(EngineHungError):
        model.generate([1])
    assert [record.levelno for record in caplog.records].count(logging.CRITICAL) == 1
    began = time.monotonic()
    model.close()
    assert time.monotonic() - began < 5, "closing does not wait for what does not come back"


def test_an_engine_that_comes_back_late_ends_and_frees_what_it_holds(
    hanging: tuple[EngineModel, FakeRunner, threading.Event],
) -> None:
    model, runner, released = hanging
    stream = model.generate([1], max_tokens=3)
    with pytest.raises(EngineHungError):
        stream.text()
    released.set()
    patience = threading.Event()
    while not runner.freed and not patience.wait(0.005):
        pass
    assert list(stream) == [], "no token comes after the error"


def test_a_slow_engine_does_not_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "INTERVAL", 0.01)
    runner = FakeRunner()
    with fake_model(runner, step_timeout=2) as model:
        runner.before_step = lambda: time.sleep(0.05)
        assert still_serves(model)
        time.sleep(0.1)
        assert still_serves(model)


def test_the_time_in_which_the_process_itself_was_stopped_does_not_count() -> None:
    runner, released = FakeRunner(), threading.Event()
    runner.before_step = lambda: released.wait() and None
    model = fake_model(runner, step_timeout=10)
    stream = model.generate([1], max_tokens=2)
    while model._engine._round_began is None:
        time.sleep(0.001)
    for _ in range(11):  # one look sees the round, ten pass
        model._engine.look(1.0)
    released.set()
    assert len(list(stream)) == 2
    model.close()
    monotonic = iter([0.0, 100.0, 200.0])
    looked: list[float] = []
    watched = watchdog._Watchdog.__new__(watchdog._Watchdog)
    watched._done = Waits([False, False, True])  # type: ignore[assignment]
    watched._look = looked.append  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watchdog, "monotonic", lambda: next(monotonic))
        watched._run()
    assert looked == [2 * watchdog.INTERVAL] * 2, "a look counts for no more, however late it comes"


class Waits:
    """An event whose `wait` says what it was told to say."""

    def __init__(self, answers: list[bool]) -> None:
        self._answers = answers

    def wait(self, timeout: float) -> bool:
        return self._answers.pop(0)


def test_a_watchdog_that_cannot_start_is_an_error_and_frees_the_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(engine: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(engine_module, "watch", no_thread)
    runner = FakeRunner()
    with pytest.raises(RuntimeError, match="can't start new thread"):
        fake_model(runner, step_timeout=10)
    assert runner.freed


def test_closing_does_not_wait_for_ever_for_a_device_that_is_not_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "INTERVAL", 0.02)
    monkeypatch.setattr(engine_module, "INTERVAL", 0.02)
    runner, released = FakeRunner(), threading.Event()
    runner.free = released.wait  # type: ignore[assignment, method-assign]
    model = fake_model(runner, step_timeout=0.2)
    model.close()
    released.set()


# Consumers ------------------------------------------------------------------------------------------------------------


def test_a_consumer_that_does_not_read_holds_up_nobody(lookahead: int) -> None:
    runner = FakeRunner(lookahead=lookahead, slots=2)
    with fake_model(runner) as model:
        unread = model.generate([5], max_tokens=300)
        for _ in range(20):
            assert still_serves(model)
        assert len(list(unread)) == 300


def test_streams_that_are_dropped_in_heaps_leave_nothing_behind(lookahead: int) -> None:
    runner = FakeRunner(lookahead=lookahead, slots=1, max_slots=4, context_length=10**6, next_token=endless)
    with fake_model(runner) as model:
        for number in range(200):
            stream = model.generate([number % 250], max_tokens=10**5)
            if number % 3:
                next(stream)
            del stream
        gc.collect()
        settled(model, runner)


def settled(model: EngineModel, runner: FakeRunner) -> None:
    """Returns once nobody runs or waits."""
    patience = threading.Event()
    for _ in range(20_000):
        stats = model.stats()
        if (stats.running, stats.waiting, len(runner.open_slots)) == (0, 0, 0):
            return
        patience.wait(0.001)
    pytest.fail(f"{stats.running} run, {stats.waiting} wait, open are {runner.open_slots}")


@posix
def test_an_interrupt_at_any_point_leaks_nothing(lookahead: int) -> None:
    """Ctrl-C comes 300 times, wherever the main thread happens to be."""
    runner = FakeRunner(lookahead=lookahead, slots=1, max_slots=4)
    main = threading.main_thread().ident
    assert main is not None
    draws = random.Random(0)
    interrupted = 0
    with fake_model(runner) as model:
        for _ in range(300):
            timer = threading.Timer(draws.random() * 0.003, signal.pthread_kill, (main, signal.SIGINT))
            try:
                timer.start()
                while timer.is_alive():
                    model.generate([1, 2, 3], max_tokens=4).text()
                    list(model.batch_generate([[1], [2]], max_tokens=2))
                timer.join()
                time.sleep(0.001)
            except KeyboardInterrupt:
                interrupted += 1
            timer.cancel()
        gc.collect()
        settled(model, runner)
        assert interrupted > 200
        assert still_serves(model)


def test_close_twice_and_from_several_threads_while_streams_run(lookahead: int) -> None:
    runner = FakeRunner(lookahead=lookahead, slots=2, context_length=10**6, next_token=endless)
    model = fake_model(runner)
    streams = [model.generate([n], max_tokens=10**5) for n in range(4)]
    threads = [threading.Thread(target=model.close) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    model.close()
    for stream in streams:
        with pytest.raises(ModelClosedError):
            stream.text()
    assert runner.freed


# The process ----------------------------------------------------------------------------------------------------------


def threads_of_ours() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith(("engine", "watchdog"))]


def test_no_thread_is_left_of_closed_models() -> None:
    gc.collect()
    before = threads_of_ours()
    models = [fake_model(FakeRunner(), step_timeout=10) for _ in range(3)]
    assert len(threads_of_ours()) >= len(before) + 3
    for model in models:
        assert still_serves(model)
        model.close()
    assert threads_of_ours() == before


@posix
def test_in_a_forked_process_streams_and_calls_say_so_and_nothing_hangs() -> None:
    runner = FakeRunner(slots=1, context_length=10**6, next_token=endless)
    with fake_model(runner) as model:
        running, waiting = (model.generate([n], max_tokens=10**5) for n in (1, 2))
        next(running)
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(write, "\n".join(map(refused, (running.text, waiting.text, lambda: call(model)))).encode())
            model.stats()
            model.close()
            os._exit(0)
        os.close(write)
        with os.fdopen(read) as answers:
            said = answers.read().splitlines()
        assert os.waitpid(child, 0)[1] == 0
        assert len(said) == 3
        assert all("before this process was forked" in line for line in said)
        assert next(running).finish is None, "the parent's model goes on"


def call(model: EngineModel) -> TokenStream:
    return model.generate([1])


def refused(action: Callable[[], object]) -> str:
    try:
        action()
    except EngineError as error:
        return str(error)
    return "nothing was raised"
