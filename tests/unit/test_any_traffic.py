"""The engine under random traffic: arrivals, lengths, cancels, failures, slot counts, lookahead."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import pytest
from fakes import FakeRunner, continuation, fake_logprobs, fake_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference.engine.model import EngineModel

POISON = 253
"""A token that the fake rule never makes, and after which the damaged device has no logits."""


@dataclass(frozen=True)
class Call:
    """What one consumer does."""

    kind: str
    prompts: list[list[int]]
    max_tokens: int
    leave_after: int | None
    scope: str | None


# Prompts that begin alike, so that slots are trimmed, copied and waited for.
beginnings = st.sampled_from([[], [1] * 20, [1] * 40, [1, 2] * 30, list(range(70))])
prompts = st.builds(lambda a, b: a + b, beginnings, st.lists(st.integers(0, 249), min_size=1, max_size=12))
calls = st.builds(
    Call,
    kind=st.sampled_from(["generate", "batch", "classify"]),
    prompts=st.lists(prompts, min_size=1, max_size=6),
    max_tokens=st.integers(1, 10),
    leave_after=st.none() | st.integers(0, 8),
    scope=st.sampled_from([None, None, "tenant"]),
)


class Consumer:
    """Makes a call on a thread of its own and keeps what came."""

    def __init__(self, model: EngineModel, call: Call) -> None:
        self.call = call
        self.tokens: dict[int, list[Any]] = {}
        self.answers: list[Any] = []
        self.problem: BaseException | None = None
        self._model = model
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            getattr(self, f"_{self.call.kind}")()
        except BaseException as problem:  # noqa: BLE001 - told by the test
            self.problem = problem

    def _generate(self) -> None:
        call = self.call
        for number, prompt in enumerate(call.prompts):
            found = self.tokens[number] = []
            with self._model.generate(prompt, max_tokens=call.max_tokens, cache_scope=call.scope) as stream:
                for token in stream:
                    found.append(token)
                    if len(found) == call.leave_after:
                        break

    def _batch(self) -> None:
        call = self.call
        with self._model.batch_generate(call.prompts, max_tokens=call.max_tokens, cache_scope=call.scope) as stream:
            for count, (index, token) in enumerate(stream, 1):
                self.tokens.setdefault(index, []).append(token)
                if count == call.leave_after:
                    break

    def _classify(self) -> None:
        call = self.call
        with self._model.classify(call.prompts, labels=["no", "nobody", "yes"], cache_scope=call.scope) as stream:
            for count, answer in enumerate(stream, 1):
                self.answers.append(answer)
                if count == call.leave_after:
                    break

    def check(self) -> None:
        """Everything that came is right, in order, and whoever stayed got all of it."""
        call = self.call
        if self.problem is not None:
            raise self.problem
        for index, found in self.tokens.items():
            right = continuation(call.prompts[index], call.max_tokens)
            assert [token.id for token in found] == right[: len(found)]
            finishes = [token.finish.reason for token in found if token.finish is not None]
            assert finishes == (["length"] if len(found) == call.max_tokens else [])
        for prompt, answer in zip(call.prompts, self.answers, strict=False):
            assert answer.logprobs["no"] == pytest.approx(
                fake_logprobs(prompt)[ord("n")] + fake_logprobs([*prompt, ord("n")])[ord("o")]
            )
        if call.leave_after is None:
            assert len(self.tokens) + len(self.answers) == len(call.prompts)
            assert all(found[-1].finish is not None for found in self.tokens.values())


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    lookahead=st.sampled_from([0, 1]),
    slots=st.integers(1, 3),
    extra=st.integers(0, 6),
    batch_size=st.integers(9, 40),
    can_fork=st.booleans(),
    can_trim=st.booleans(),
    slot_length=st.sampled_from([8, 64, 512]),
    forgets=st.booleans(),
    slow_to_grow=st.sampled_from([0, 3]),
    traffic=st.lists(calls, min_size=1, max_size=8),
)
def test_every_request_ends_once_with_what_is_its_own_and_no_slot_leaks(
    lookahead: int,
    slots: int,
    extra: int,
    batch_size: int,
    can_fork: bool,
    can_trim: bool,
    slot_length: int,
    forgets: bool,
    slow_to_grow: int,
    traffic: list[Call],
) -> None:
    runner = FakeRunner(
        lookahead=lookahead,
        slots=slots,
        max_slots=slots + extra,
        batch_size=batch_size,
        can_fork=can_fork and can_trim,
        can_trim=can_trim,
        slot_length=slot_length,
        forgets=forgets,
    )
    runner.slow_to_grow = slow_to_grow
    with fake_model(runner) as model:
        consumers = [Consumer(model, call) for call in traffic]
        for consumer in consumers:
            consumer.thread.join(30)
            assert not consumer.thread.is_alive(), "somebody starves"
        for consumer in consumers:
            consumer.check()
        assert runner.most_open <= slots + extra
        patience = threading.Event()
        while runner.open_slots and not patience.wait(0.001):
            pass  # those who left are let go within a step
        stats = model.stats()
        assert (stats.running, stats.waiting) == (0, 0)
        # Every slot can still be had.
        last = [model.generate([n], max_tokens=2) for n in range(slots + extra)]
        assert [[token.id for token in stream] for stream in last] == [
            continuation([n], 2) for n in range(slots + extra)
        ]


@settings(max_examples=40, deadline=None)
@given(
    lookahead=st.sampled_from([0, 1]),
    slots=st.integers(1, 4),
    poisoned=st.sets(st.integers(0, 11), min_size=1, max_size=6),
)
def test_failing_prompts_end_with_an_error_and_the_others_with_their_text(
    lookahead: int, slots: int, poisoned: set[int]
) -> None:
    """A row whose logits are damaged fails alone."""

    class Damaged(FakeRunner):
        def _sample(self, slot: int) -> int:
            if self.holds[slot][-1] == POISON:
                return -1
            return super()._sample(slot)

    prompts = [[n, n + 1, POISON] if n in poisoned else [n, n + 1] for n in range(12)]
    with fake_model(Damaged(lookahead=lookahead, max_slots=slots, batch_size=16)) as model:
        tokens: dict[int, list[Any]] = {}
        for index, token in model.batch_generate(prompts, max_tokens=4):
            tokens.setdefault(index, []).append(token)
    for n, found in tokens.items():
        if n in poisoned:
            assert [token.id for token in found] == [-1]
            assert "no finite logits" in str(found[0].finish.error)
        else:
            assert [token.id for token in found] == continuation(prompts[n], 4)
