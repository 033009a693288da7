"""`stats()`: what all calls took, and nothing made up."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence

import pytest
from fakes import FakeRunner, fake_model

from inference import StatsModel
from inference.engine.deadlines import FEW, Deadlines
from inference.engine.model import EngineModel


def test_a_model_that_tells_says_so_by_its_type() -> None:
    with fake_model(FakeRunner()) as model:
        assert isinstance(model, StatsModel)


def test_an_idle_model_has_done_nothing() -> None:
    with fake_model(FakeRunner()) as model:
        stats = model.stats()
    assert (stats.calls, stats.running, stats.waiting, stats.prompt_tokens, stats.generated_tokens) == (0, 0, 0, 0, 0)
    assert stats.last is None
    assert stats.time_to_first_token is None
    assert stats.prefill_tokens_per_second is None
    assert stats.decode_tokens_per_second is None


def test_the_sums_are_those_of_the_calls() -> None:
    with fake_model(FakeRunner(max_slots=2)) as model:
        calls = []
        for prompt in ([1, 2, 3], [4] * 30, [4] * 31):
            stream = model.generate(prompt, max_tokens=5)
            stream.text()
            calls.append(stream.stats)
        list(model.classify([[9, 9]]))
        stats = model.stats()
    assert stats.calls == 4
    assert stats.prompt_tokens == 3 + 30 + 31 + 2
    assert stats.cached_tokens == sum(call.cached_tokens for call in calls if call) == 30
    assert stats.generated_tokens == 15
    assert stats.decoded_tokens == 12
    assert stats.last is not None
    assert (stats.last.prompt_tokens, stats.last.generated_tokens) == (2, 0)
    for name in ("queue_seconds", "prefill_seconds", "decode_seconds"):
        assert getattr(stats, name) >= sum(getattr(call, name) for call in calls)
    assert stats.queue_seconds + stats.prefill_seconds + stats.decode_seconds <= stats.total_seconds
    assert 0 < stats.busy_seconds <= stats.total_seconds
    assert stats.decode_tokens_per_second == pytest.approx(stats.decoded_tokens / stats.decode_seconds)


def test_calls_that_run_and_wait_are_counted_while_they_do() -> None:
    stepping, gate = threading.Event(), threading.Event()

    def halt() -> None:
        stepping.set()
        gate.wait(5)

    runner = FakeRunner(slots=1)
    model = fake_model(runner)
    runner.before_step = halt
    with model:
        streams = [model.generate([n] * 5, max_tokens=3) for n in range(3)]
        stepping.wait(5)
        stats = model.stats()
        gate.set()
        assert (stats.calls, stats.running, stats.waiting) == (0, 1, 2)
        assert stats.prompt_tokens == 5
        for stream in streams:
            stream.text()
        done = model.stats()
        assert (done.calls, done.running, done.waiting) == (3, 0, 0)


def test_memory_is_what_the_device_says() -> None:
    with fake_model(FakeRunner(max_slots=4)) as model:
        memory = model.stats().memory
        assert memory is not None
        assert (memory.active_bytes, memory.measured) == (1010, False)
    assert model.stats().memory is None


def test_utilization_is_none_where_nobody_tells() -> None:
    with fake_model(FakeRunner()) as model:
        assert model.stats().device_utilization is None


def test_stats_may_be_asked_from_any_thread_while_tokens_flow() -> None:
    problems: list[BaseException] = []

    def watch(model: EngineModel, done: threading.Event) -> None:
        try:
            before = 0
            while not done.is_set():
                now = model.stats()
                assert now.generated_tokens >= before
                before = now.generated_tokens
        except BaseException as problem:  # noqa: BLE001 - told below
            problems.append(problem)

    def one(tokens: Sequence[int]) -> int:
        return 7

    with fake_model(FakeRunner(max_slots=8, batch_size=32, next_token=one)) as model:
        done = threading.Event()
        watcher = threading.Thread(target=watch, args=(model, done))
        watcher.start()
        count = sum(1 for _ in model.batch_generate([[n % 250] for n in range(500)], max_tokens=4))
        done.set()
        watcher.join()
    assert count == 2000
    assert problems == []


def test_calls_that_ended_early_do_not_pile_up_behind_their_timeouts() -> None:
    with fake_model(FakeRunner()) as model:
        for n in range(20 * FEW):
            model.generate([n % 200], max_tokens=1, timeout=3600).text()
        deadlines = model._engine._loop._deadlines
        assert isinstance(deadlines, Deadlines)
        assert len(deadlines._heap) <= 2 * FEW


def test_what_was_never_computed_does_not_count_as_prefilled() -> None:
    gate = threading.Event()
    runner = FakeRunner(slots=1)
    runner.before_step = lambda: gate.wait(5) and None
    with fake_model(runner) as model:
        first = model.generate([1] * 10, max_tokens=1)
        left = [model.generate([2] * 400, max_tokens=1) for _ in range(20)]
        for stream in left:
            stream.cancel()
        gate.set()
        first.text()
        assert [list(stream)[-1].finish.stats.computed_tokens for stream in left] == [0] * 20  # type: ignore[union-attr]
        again = model.generate([1] * 10, max_tokens=1)
        again.text()
        stats = model.stats()
    assert stats.computed_tokens == 11
    assert stats.cached_tokens == 9
    assert stats.prefill_tokens_per_second == stats.computed_tokens / stats.prefill_seconds
    assert again.stats is not None
    assert again.stats.computed_tokens == 1


def test_the_sums_never_go_down() -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with fake_model(FakeRunner(max_slots=4, batch_size=32)) as model:
            before = 0
            for _ in model.batch_generate([[n % 250] for n in range(400)], max_tokens=3):
                now = model.stats().generated_tokens
                assert now >= before
                before = now
    finally:
        sys.setswitchinterval(interval)
