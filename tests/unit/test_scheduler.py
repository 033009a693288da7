"""Who runs in a step, how much of each prompt, and how long a step may take."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
from fakes import FakeRunner, FakeTokenizer, continuation, fake_model
from hypothesis import given
from hypothesis import strategies as st

from inference import GenerateOptions
from inference.engine.generation import Generation
from inference.engine.pacing import ALONE, BESIDE_STREAMS, FIRST_CHUNK, LEAST, Pacing
from inference.engine.scheduler import Scheduler
from inference.errors import InsufficientMemoryError
from inference.stream import TokenChannel


def running(scheduler: Scheduler, *prompts: Sequence[int]) -> list[Generation]:
    """Requests with these prompts, admitted."""
    requests = [Generation(p, GenerateOptions(max_tokens=99), TokenChannel(), FakeTokenizer(), 10**6) for p in prompts]
    for request in requests:
        scheduler.add(request)
    for request, place in scheduler.admit():
        request.start(place.slot, 0)
    return requests


def fed(scheduler: Scheduler, room: int) -> dict[int, int]:
    """How many tokens the next step feeds into each slot; 0 for one that decodes."""
    return {row.slot: len(row.feed or ()) for _, row in scheduler.plan(room)}


def test_the_oldest_prompt_gets_half_of_the_room_and_the_short_ones_the_rest() -> None:
    scheduler = Scheduler(4, 10**6, 512)
    running(scheduler, [1] * 1000, [2] * 300, [3] * 10, [4] * 25)
    assert fed(scheduler, 100) == {0: 50, 1: 15, 2: 10, 3: 25}
    assert fed(scheduler, 100) == {0: 50, 1: 50, 2: 0, 3: 0}


def test_what_the_others_do_not_need_goes_to_the_oldest() -> None:
    scheduler = Scheduler(2, 10**6, 512)
    running(scheduler, [1] * 1000, [2] * 10)
    assert fed(scheduler, 100) == {0: 90, 1: 10}


def test_decoding_comes_before_prompts() -> None:
    scheduler = Scheduler(4, 10**6, 4)
    running(scheduler, [1], [2], [3], [4] * 50)
    assert fed(scheduler, 512) == {0: 1, 1: 1, 2: 1, 3: 1}
    assert fed(scheduler, 512) == {0: 0, 1: 0, 2: 0, 3: 1}


@given(
    lengths=st.lists(st.integers(1, 200), min_size=1, max_size=8),
    room=st.integers(1, 100),
    batch_size=st.integers(8, 64),
)
def test_every_step_fits_and_the_oldest_prompt_always_goes_on(lengths: list[int], room: int, batch_size: int) -> None:
    scheduler = Scheduler(len(lengths), 10**6, batch_size)
    requests = running(scheduler, *[[1] * length for length in lengths])
    for _ in range(4000):
        waiting = [request for request in requests if request.remaining]
        if not waiting:
            return
        before = waiting[0].remaining
        plan = scheduler.plan(room)
        chunks = [len(row.feed) for _, row in plan if row.feed is not None]
        assert sum(chunks) <= room
        assert sum(chunks) + len(plan) - len(chunks) <= batch_size
        decoding = len(plan) - len(chunks)
        assert waiting[0].remaining < before or decoding == batch_size
    pytest.fail("the prompts are never through")


def test_a_step_is_bounded_in_time_by_the_measured_rates() -> None:
    pacing = Pacing()
    assert pacing.room(0) == FIRST_CHUNK
    for _ in range(20):
        pacing.learn(0.064, 64, 0)  # 1 ms a token
        pacing.learn(0.050, 0, 10)  # 5 ms a sequence
    assert pacing.room(0) == pytest.approx(ALONE * 1000, abs=1)
    assert pacing.room(10) == pytest.approx((BESIDE_STREAMS - 0.05) * 1000, abs=1)
    assert pacing.room(1000) == LEAST, "a prompt always goes on"


def test_a_device_that_slows_down_gets_shorter_chunks() -> None:
    pacing = Pacing()
    pacing.learn(0.064, 64, 0)
    before = pacing.room(1)
    for _ in range(6):
        pacing.learn(0.64, 64, 1)
    assert pacing.room(1) < before / 5


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(0, 4096), st.integers(0, 64)), max_size=30), st.integers(0, 64))
def test_whatever_was_measured_some_tokens_are_fed(steps: list[tuple[float, int, int]], decoding: int) -> None:
    pacing = Pacing()
    for seconds, tokens, sequences in steps:
        if tokens or sequences:
            pacing.learn(seconds, tokens, sequences)
    assert pacing.room(decoding) >= LEAST


@pytest.mark.parametrize("lookahead", [0, 1])
def test_a_long_prompt_does_not_stall_a_stream_that_runs(lookahead: int) -> None:
    runner = FakeRunner(slots=2, lookahead=lookahead, batch_size=8, context_length=10**7)
    with fake_model(runner) as model:
        stream = model.generate([1], max_tokens=10**6)
        next(stream)
        long = model.generate([2] * 1000, max_tokens=1)
        assert [token.id for token in long] == continuation([2] * 1000, 1)
        stream.close()
    with_long = [step for step in runner.steps if any(row.feed and len(row.feed) > 1 for row in step)]
    assert len(with_long) > 100
    assert all(any(row.feed is None for row in step) for step in with_long), "in each step the stream has its token"


def test_slots_come_for_all_who_wait_at_once() -> None:
    sizes = []

    class Growing(FakeRunner):
        def resize(self, slots: int, length: int, *, wait: bool) -> None:
            sizes.append(slots)
            super().resize(slots, length, wait=wait)

    with fake_model(Growing(max_slots=32, batch_size=64)) as model:
        assert sum(1 for _ in model.batch_generate([[n] for n in range(20)], max_tokens=1)) == 20
    assert sizes == [32]


def test_first_come_first_served_even_where_prefixes_are_shared() -> None:
    gate = threading.Event()
    runner = FakeRunner(slots=1)
    runner.before_step = lambda: gate.wait(5) and None
    with fake_model(runner) as model:
        prompts = [[1] * 60, [2] * 60, [1] * 61, [2] * 61]
        streams = [model.generate(prompt, max_tokens=1, seed=n) for n, prompt in enumerate(prompts)]
        gate.set()
        for stream in streams:
            stream.text()
    assert [seed for _, _, seed in runner.opened] == [0, 1, 2, 3]


@pytest.mark.parametrize("lookahead", [0, 1])
def test_streams_go_on_while_slots_are_made(lookahead: int) -> None:
    runner = FakeRunner(slots=1, max_slots=4, lookahead=lookahead, context_length=10**7)
    runner.slow_to_grow = 50
    with fake_model(runner) as model:
        stream = model.generate([1], max_tokens=10**6)
        next(stream)
        before = len(runner.steps)
        late = [model.generate([n], max_tokens=3) for n in (2, 3)]
        assert [[token.id for token in found] for found in late] == [continuation([n], 3) for n in (2, 3)]
        stream.close()
        assert runner.slots == 4
    assert all(len(step) == 1 for step in runner.steps[before : before + 45]), "the stream ran on alone"


def test_slots_become_as_long_as_a_call_needs_and_no_longer() -> None:
    runner = FakeRunner(slot_length=16, context_length=1000)
    with fake_model(runner) as model:
        for length, count, wanted in ((4, 4, 16), (10, 7, 32), (10, 5, 32), (100, 1, 128), (900, 100, 1000)):
            assert [t.id for t in model.generate([1] * length, max_tokens=count)] == continuation([1] * length, count)
            assert runner.slot_length == wanted


def test_short_calls_go_on_while_longer_slots_are_made() -> None:
    runner = FakeRunner(slots=2, slot_length=16, context_length=10**7)
    runner.slow_to_grow = 30
    with fake_model(runner) as model:
        stream = model.generate([1], max_tokens=15)
        long = model.generate([2] * 100, max_tokens=3)
        assert [token.id for token in stream] == continuation([1], 15)
        assert [token.id for token in long] == continuation([2] * 100, 3)


def test_a_call_that_no_memory_can_be_had_for_ends_with_the_reason_and_others_go_on() -> None:
    runner = FakeRunner(slot_length=16, context_length=1000)
    runner.memory_for = 0
    with fake_model(runner) as model:
        long = model.generate([2] * 100, max_tokens=3)
        short = model.generate([1], max_tokens=3)
        with pytest.raises(InsufficientMemoryError, match="no memory in this fake"):
            long.text()
        assert [token.id for token in short] == continuation([1], 3)


def test_of_several_that_are_too_long_only_those_end_that_no_memory_can_be_had_for() -> None:
    class Small(FakeRunner):
        def resize(self, slots: int, length: int, *, wait: bool) -> None:
            if length > 110:
                raise InsufficientMemoryError(f"no memory for {length} in this fake")
            super().resize(slots, length, wait=wait)

    with fake_model(Small(slot_length=16, context_length=1000)) as model:
        streams = [model.generate([n % 99] * n, max_tokens=2) for n in (10, 62, 400, 100)]
        with pytest.raises(InsufficientMemoryError, match="no memory for 512"):
            streams[2].text()
        for n, stream in ((10, streams[0]), (62, streams[1]), (100, streams[3])):
            assert [token.id for token in stream] == continuation([n % 99] * n, 2)


def test_more_slots_are_asked_for_again_once_memory_may_be_free(monkeypatch: pytest.MonkeyPatch) -> None:
    from inference.engine import loop

    monkeypatch.setattr(loop, "TRY_AGAIN", 0.0)
    runner = FakeRunner(max_slots=4, batch_size=16)
    runner.memory_for = 1
    with fake_model(runner) as model:
        assert sum(1 for _ in model.batch_generate([[n] for n in range(6)], max_tokens=1)) == 6
        assert runner.slots == 1
        runner.memory_for = 4
        assert sum(1 for _ in model.batch_generate([[n] for n in range(6)], max_tokens=1)) == 6
        assert runner.slots == 4


def test_while_somebody_decodes_few_slots_are_copied_in_one_step() -> None:
    beginning = list(range(200))
    forks: list[int] = []

    class Counting(FakeRunner):
        def fork(self, source: int, slot: int, length: int) -> int:
            forks.append(len(self.steps))
            return super().fork(source, slot, length)

    runner = Counting(slots=8, slot_length=16384, context_length=16384, batch_size=512)
    with fake_model(runner) as model:
        stream = model.generate([1], max_tokens=16000)
        next(stream)
        model.generate(beginning, max_tokens=1).text()
        found = [model.generate([*beginning, n], max_tokens=1) for n in range(4)]
        assert [[token.id for token in one] for one in found] == [continuation([*beginning, n], 1) for n in range(4)]
        stream.close()
    assert len(set(forks)) == len(forks), "one copy of so long a slot for each step"
