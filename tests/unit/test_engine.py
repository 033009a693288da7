"""The engine against a fake device, with and without lookahead."""

from __future__ import annotations

import gc
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from fakes import END, FakeRunner, continuation, fake_model
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.engine.engine import Engine
from inference.engine.model import EngineModel
from inference.errors import (
    EmptyPromptError,
    EngineError,
    InvalidTokenError,
    ModelClosedError,
    NoChatTemplateError,
    OptionValueError,
    PromptError,
    PromptTooLongError,
    UnknownOptionError,
)

Make = Callable[..., tuple[EngineModel, FakeRunner]]


@pytest.fixture(params=[0, 1], ids=["lookahead 0", "lookahead 1"])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    """Makes models on fake runners, and closes them."""
    models: list[EngineModel] = []

    def make(**arguments: Any) -> tuple[EngineModel, FakeRunner]:
        runner = FakeRunner(lookahead=request.param, **arguments)
        models.append(fake_model(runner))
        return models[-1], runner

    yield make
    for model in models:
        model.close()


def ids(stream: Any) -> list[int]:
    return [token.id for token in stream]


def test_tokens_are_what_the_model_makes_of_the_prompt(make: Make) -> None:
    model, _ = make()
    assert ids(model.generate([1, 2, 3], max_tokens=20)) == continuation([1, 2, 3], 20)


def test_a_long_prompt_is_fed_in_chunks_and_means_the_same(make: Make) -> None:
    model, runner = make(batch_size=7)
    prompt = list(range(1, 101))
    assert ids(model.generate(prompt, max_tokens=5)) == continuation(prompt, 5)
    fed = [list(row.feed) for step in runner.steps for row in step if row.feed is not None]
    assert max(map(len, fed)) <= 7
    assert [token for chunk in fed for token in chunk] == prompt


def test_several_sequences_run_together_and_each_gets_its_own_tokens(make: Make) -> None:
    model, runner = make(slots=4)
    prompts = [[n, n + 1] for n in range(1, 9)]
    streams = [model.generate(prompt, max_tokens=30) for prompt in prompts]
    assert [ids(stream) for stream in streams] == [continuation(prompt, 30) for prompt in prompts]
    assert runner.most_open <= 4


def test_slots_are_made_as_they_are_needed(make: Make) -> None:
    gate = threading.Event()
    model, runner = make(slots=1, max_slots=4)
    runner.before_step = lambda: gate.wait(5) and None
    streams = [model.generate([n], max_tokens=5) for n in (1, 2, 3)]
    gate.set()
    assert [ids(stream) for stream in streams] == [continuation([n], 5) for n in (1, 2, 3)]
    assert runner.slots in (2, 4)


def test_slots_grow_while_many_wait_even_if_one_is_free_at_each_step(make: Make) -> None:
    model, runner = make(slots=1, max_slots=16, batch_size=32)
    streams = [model.generate([n], max_tokens=2) for n in range(100)]
    assert [ids(stream) for stream in streams] == [continuation([n], 2) for n in range(100)]
    assert runner.slots == 16


def test_without_memory_for_more_slots_sequences_wait_their_turn(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    gate = threading.Event()
    model, runner = make(slots=1, max_slots=4)
    runner.before_step = lambda: gate.wait(5) and None
    runner.memory_for = 1
    streams = [model.generate([n], max_tokens=5) for n in (1, 2, 3)]
    gate.set()
    assert [ids(stream) for stream in streams] == [continuation([n], 5) for n in (1, 2, 3)]
    assert runner.most_open == 1
    assert "No memory for more than 1 sequences at once" in caplog.text


def test_first_come_first_served(make: Make) -> None:
    gate = threading.Event()
    model, runner = make(slots=1)
    runner.before_step = lambda: gate.wait(5) and None
    streams = [model.generate([n], max_tokens=2, seed=n) for n in range(1, 6)]
    gate.set()
    for stream in streams:
        stream.text()
    assert [seed for _, _, seed in runner.opened] == [1, 2, 3, 4, 5]


def test_an_end_of_generation_token_stops_without_text(make: Make) -> None:
    model, _ = make(script=[72, 105, END, 33])
    stream = model.generate("x")
    assert [(token.id, token.text) for token in stream] == [(72, "H"), (105, "i"), (END, "")]
    assert stream.finish_reason == "stop"


def test_ignore_eos_goes_on_to_max_tokens(make: Make) -> None:
    model, _ = make(script=[72, END, 105, END])
    stream = model.generate("x", ignore_eos=True, max_tokens=6)
    assert ids(stream) == [72, END, 105, END, END, END]
    assert stream.finish_reason == "length"


def test_stop_tokens_end_the_sequence_without_text(make: Make) -> None:
    model, _ = make(script=[72, 105, 33])
    stream = model.generate("x", stop_tokens=[105])
    assert stream.text() == "H"
    assert stream.finish_reason == "stop"


def test_a_stop_string_over_several_tokens_ends_the_text_before_it(make: Make) -> None:
    model, _ = make(script=list(b"one two STOP three"))
    stream = model.generate("x", stop=["STOP", "never"])
    tokens = list(stream)
    assert "".join(token.text for token in tokens) == "one two "
    assert stream.finish_reason == "stop"
    assert len(tokens) == len(b"one two STOP"), "one Token for each sampled id"


def test_what_might_have_become_a_stop_string_is_shown_at_the_end(make: Make) -> None:
    model, _ = make(script=list(b"a STO"))
    assert model.generate("x", stop="STOP", max_tokens=5).text() == "a STO"


def test_a_character_over_several_tokens_comes_whole(make: Make) -> None:
    model, _ = make(script=list("né🦙".encode()))
    texts = [token.text for token in model.generate("x")]
    assert texts == ["n", "", "é", "", "", "", "🦙", ""]


def test_a_broken_character_at_the_end_becomes_the_replacement_character(make: Make) -> None:
    model, _ = make(script=[0xF0, 0x9F])
    assert model.generate("x", max_tokens=2).text() == "�"


def test_max_tokens_ends_with_length_and_makes_not_one_more(make: Make) -> None:
    model, runner = make()
    stream = model.generate([1], max_tokens=3)
    assert len(ids(stream)) == 3
    assert stream.finish_reason == "length"
    assert sum(row.sample for step in runner.steps for row in step) == 3


def test_the_end_of_the_context_ends_with_length(make: Make) -> None:
    model, _ = make(context_length=10)
    stream = model.generate([1, 2, 3], max_tokens=100)
    assert len(ids(stream)) == 7
    assert stream.finish_reason == "length"


def test_the_last_token_alone_carries_the_finish(make: Make) -> None:
    model, _ = make()
    *others, last = list(model.generate([1], max_tokens=4))
    assert all(token.finish is None for token in others)
    assert last.finish is not None
    assert (last.finish.reason, last.finish.error) == ("length", None)


def test_the_stats_count_what_was_done(make: Make) -> None:
    model, _ = make()
    stream = model.generate([1, 2, 3], max_tokens=4)
    assert stream.stats is None
    stream.text()
    stats = stream.stats
    assert stats is not None
    assert (stats.prompt_tokens, stats.cached_tokens, stats.generated_tokens) == (3, 0, 4)
    parts = stats.queue_seconds + stats.prefill_seconds + stats.decode_seconds
    assert 0 < parts <= stats.total_seconds
    assert stats.time_to_first_token == stats.queue_seconds + stats.prefill_seconds


def endless(tokens: Sequence[int]) -> int:
    return 7


def test_cancel_ends_the_sequence_and_frees_its_slot(make: Make) -> None:
    model, _ = make(next_token=endless, context_length=10**6)
    stream = model.generate([1], max_tokens=10**5)
    next(stream)
    stream.cancel()
    rest = list(stream)
    assert rest[-1].id == -1
    assert stream.finish_reason == "cancelled"
    assert ids(model.generate([1], max_tokens=2)) == [7, 7], "the only slot is free again"


def test_leaving_the_with_block_cancels_and_the_stats_are_true(make: Make) -> None:
    model, _ = make(next_token=endless, context_length=10**6)
    with model.generate([1], max_tokens=10**5) as stream:
        next(stream)
    assert stream.finish_reason == "cancelled"
    assert stream.stats is not None
    assert stream.stats.generated_tokens >= 1
    assert list(stream) == []
    assert ids(model.generate([1], max_tokens=2)) == [7, 7]


def test_a_stream_that_nobody_holds_frees_its_slot(make: Make) -> None:
    model, _ = make(next_token=endless, context_length=10**6)
    stream = model.generate([1], max_tokens=10**5)
    next(stream)
    del stream
    gc.collect()
    assert ids(model.generate([1], max_tokens=2)) == [7, 7]


def test_a_timeout_ends_the_sequence_while_it_runs(make: Make) -> None:
    model, _ = make(next_token=endless, context_length=10**7)
    stream = model.generate([1], max_tokens=10**6, timeout=0.05)
    stream.text()
    assert stream.finish_reason == "timeout"


def test_a_timeout_also_counts_while_waiting_for_a_slot(make: Make) -> None:
    model, _ = make(slots=1, next_token=endless, context_length=10**7)
    with model.generate([1], max_tokens=10**6) as running:
        next(running)
        waiting = model.generate([2], max_tokens=5, timeout=0.05)
        assert waiting.text() == ""
        assert waiting.finish_reason == "timeout"
        assert waiting.stats is not None
        assert waiting.stats.generated_tokens == 0
        assert waiting.stats.prefill_tokens_per_second is None


def fails_after(good: int) -> Callable[[Sequence[int]], int]:
    return lambda tokens: -1 if tokens[0] == 13 and len(tokens) > good else 7


def test_a_failed_step_is_raised_from_the_iteration_and_the_model_goes_on(make: Make) -> None:
    model, _ = make(next_token=fails_after(3))
    stream = model.generate([13], max_tokens=50)
    with pytest.raises(EngineError, match="this fake device failed"):
        list(stream)
    assert stream.finish_reason == "error"
    assert ids(model.generate([1], max_tokens=3)) == [7, 7, 7]


def test_an_unexpected_exception_of_the_device_becomes_an_engine_error(make: Make) -> None:
    model, runner = make()
    runner.before_step = lambda: 1 / 0  # type: ignore[assignment, return-value]
    with pytest.raises(EngineError, match="division by zero"):
        model.generate([1]).text()
    runner.before_step = lambda: None
    assert ids(model.generate([1], max_tokens=2)) == continuation([1], 2)


def test_close_ends_running_and_waiting_streams_with_a_clear_error(make: Make) -> None:
    model, runner = make(slots=1, next_token=endless, context_length=10**7)
    running, waiting = (model.generate([n], max_tokens=10**6) for n in (1, 2))
    next(running)
    model.close()
    for stream in (running, waiting):
        with pytest.raises(ModelClosedError, match="closed while"):
            stream.text()
        assert stream.finish_reason == "error"
    assert runner.freed


def test_use_after_close_is_an_error_that_says_so(make: Make) -> None:
    model, _ = make()
    model.close()
    model.close()
    with pytest.raises(ModelClosedError, match="The model is closed"):
        model.generate([1])
    with pytest.raises(ModelClosedError):
        model.chat([{"role": "user", "content": "hi"}])


def test_the_with_block_closes_the_model(make: Make) -> None:
    model, runner = make()
    with model:
        pass
    assert runner.freed


def test_a_model_that_nobody_holds_is_closed_but_not_while_a_stream_is_read() -> None:
    runner = FakeRunner()
    stream = fake_model(runner).generate([1], max_tokens=5)
    gc.collect()
    assert ids(stream) == continuation([1], 5)
    gc.collect()
    patience = threading.Event()
    while not runner.freed and not patience.wait(0.001):
        pass  # a finalizer asks the engine to end, and does not wait


def test_an_engine_that_dies_says_so_to_running_and_later_calls(make: Make) -> None:
    model, runner = make(next_token=endless, context_length=10**7)
    stream = model.generate([1], max_tokens=10**6)
    next(stream)

    def broken(slot: int) -> None:
        raise RuntimeError("the device is gone")

    runner.close = broken  # type: ignore[method-assign]
    stream.cancel()
    stream.text()
    with pytest.raises(EngineError, match="the device is gone"):
        for _ in range(2):  # the first may be queued before the engine has died
            model.generate([1], max_tokens=1).text()


def test_what_goes_wrong_while_the_runner_is_built_is_raised_to_the_caller() -> None:
    def broken() -> FakeRunner:
        raise ZeroDivisionError("no such device")

    with pytest.raises(ZeroDivisionError, match="no such device"):
        Engine(broken, "fake")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("engine ")]


def test_the_runner_lives_on_one_thread_that_is_not_the_callers(make: Make) -> None:
    threads = set()

    class Watched(FakeRunner):
        def step(self, rows: Any) -> Any:
            threads.add(threading.get_ident())
            return super().step(rows)

        def free(self) -> None:
            threads.add(threading.get_ident())
            super().free()

    def build() -> FakeRunner:
        threads.add(threading.get_ident())
        return Watched()

    from fakes import FakeTokenizer, fake_info

    with EngineModel(Engine(build, "fake"), FakeTokenizer(), fake_info()) as model:
        model.generate([1], max_tokens=3).text()
    assert len(threads) == 1
    assert threading.get_ident() not in threads


@pytest.mark.parametrize(
    ("prompt", "error", "words"),
    [
        ("", EmptyPromptError, "The prompt is empty"),
        ([], EmptyPromptError, "no tokens"),
        ([1, 256], InvalidTokenError, "256 in the prompt, position 1, is not in the vocabulary|position 1"),
        ([-1], InvalidTokenError, "-1"),
        ([1, "a"], InvalidTokenError, "item 1 is 'a'"),
        ([True], InvalidTokenError, "True"),
        (b"Hi", PromptError, "got bytes"),
        (5, PromptError, "got int"),
        ([1] * 512, PromptTooLongError, "512 tokens, and the context holds 512"),
    ],
)
def test_a_prompt_that_cannot_run_is_refused_at_the_call(prompt: Any, error: type[Exception], words: str) -> None:
    with fake_model(FakeRunner()) as model, pytest.raises(error, match=words):
        model.generate(prompt)


def test_options_are_checked_at_the_call() -> None:
    with fake_model(FakeRunner()) as model:
        with pytest.raises(UnknownOptionError, match="did you mean `top_k`"):
            model.generate("x", topk=4)
        with pytest.raises(OptionValueError, match="`temperature`"):
            model.generate("x", temperature=-1)
        with pytest.raises(InvalidTokenError, match="999 in `stop_tokens`"):
            model.generate("x", stop_tokens=[999])
        with pytest.raises(OptionValueError, match="forbids every token"):
            model.generate("x", logit_bias=dict.fromkeys(range(256), -math.inf))
        with pytest.raises(InvalidTokenError, match="999 in `logit_bias`"):
            model.generate("x", logit_bias={999: 1.0})


def test_chat_without_a_template_says_how_to_pass_one() -> None:
    message = r"plain\.gguf carries no chat template.*chat_template="
    with fake_model(FakeRunner(), path=Path("plain.gguf")) as model, pytest.raises(NoChatTemplateError, match=message):
        model.chat([{"role": "user", "content": "hi"}])


def test_each_call_without_a_seed_draws_its_own_and_a_given_seed_reaches_the_device(make: Make) -> None:
    model, runner = make()
    for seed in (None, None, 5):
        model.generate([1], max_tokens=1, seed=seed).text()
    seeds = [seed for _, _, seed in runner.opened]
    assert seeds[0] != seeds[1]
    assert seeds[2] == 5


@settings(max_examples=60, deadline=None)
@given(
    lookahead=st.sampled_from([0, 1]),
    slots=st.integers(1, 3),
    extra=st.integers(0, 3),
    batch_size=st.integers(6, 16),
    requests=st.lists(
        st.tuples(st.lists(st.integers(0, 250), min_size=1, max_size=40), st.integers(1, 12), st.integers(-1, 6)),
        min_size=1,
        max_size=12,
    ),
)
def test_every_request_ends_once_with_its_own_tokens_in_order_and_no_slot_leaks(
    lookahead: int, slots: int, extra: int, batch_size: int, requests: list[tuple[list[int], int, int]]
) -> None:
    runner = FakeRunner(lookahead=lookahead, slots=slots, max_slots=slots + extra, batch_size=batch_size)
    with fake_model(runner) as model:
        streams = [model.generate(prompt, max_tokens=count) for prompt, count, _ in requests]
        for stream, (prompt, count, cancel_after) in zip(streams, requests, strict=True):
            tokens = []
            for token in stream:
                tokens.append(token)
                if len(tokens) == cancel_after:
                    stream.cancel()
            sampled = [token.id for token in tokens if token.id >= 0]
            assert sampled == continuation(prompt, count)[: len(sampled)]
            assert [token.finish is not None for token in tokens] == [False] * (len(tokens) - 1) + [True]
            if stream.finish_reason != "cancelled":
                assert len(sampled) == count
        assert runner.most_open <= slots + extra
        model.generate([1], max_tokens=1).text()
        deadline = threading.Event()
        while runner.open_slots and not deadline.wait(0.001):
            pass  # a surplus step may still be under way
        assert not runner.open_slots
