"""A short soak: `make soak` is the long one."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from soak import traffic
from soak.loads import BACKENDS, growth
from soak.resources import Resources
from soak.traffic import EchoRunner, run


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.CRITICAL):  # faults that are injected are logged, and would be kept
        yield


@pytest.mark.parametrize("lookahead", [0, 1])
def test_traffic_from_many_threads_leaks_nothing_and_mixes_nothing_up(lookahead: int) -> None:
    report = run(6, threads=32, lookahead=lookahead)
    assert report.wrong == []
    assert report.leaks == []
    assert report.faults > 0
    kinds = {"generate", "chat", "batch", "classify", "asynchronous", "cancelled", "dropped", "late", "bad"}
    assert kinds <= set(report.done)


def test_a_text_of_another_request_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = EchoRunner._sample

    def mixed_up(self: EchoRunner, slot: int) -> int:
        return sample(self, slot) if self._draws.random() > 0.001 else ord("Z")

    monkeypatch.setattr(EchoRunner, "_sample", mixed_up)
    assert run(1, threads=8).wrong != []


def test_a_slot_that_is_not_freed_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic, "LOOKS", 10)
    monkeypatch.setattr(EchoRunner, "close", lambda self, slot: None)
    report = run(1, threads=8)
    assert any("slots are open" in problem for problem in report.wrong)
    assert any("opened twice" in problem for problem in report.wrong)


def test_what_grows_is_named() -> None:
    before = Resources(10 * 2**20, 5, 10)
    assert before.beyond(before) == []
    grown = Resources(50 * 2**20, 10, 40).beyond(before)
    assert [what.split(" grew")[0] for what in grown] == ["memory", "threads", "file descriptors"]


@pytest.mark.real_model
@pytest.mark.parametrize("backend", BACKENDS)
def test_what_a_process_holds_is_the_same_after_many_loads(backend: str) -> None:
    count = 10 if backend == "rocm" else 30
    _, _, grown = growth(backend, count)
    assert grown == []
