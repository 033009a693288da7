"""`batch_generate`: many prompts at once, none in another's way."""

from __future__ import annotations

import gc
import itertools
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from fakes import FakeRunner, continuation, fake_model

from inference import BatchModel
from inference.engine.model import EngineModel
from inference.errors import (
    EmptyPromptError,
    EngineError,
    InvalidTokenError,
    ModelClosedError,
    OptionValueError,
    PromptError,
    PromptTooLongError,
    QueueFullError,
    UnknownOptionError,
)

LOOKAHEADS = pytest.mark.parametrize("lookahead", [0, 1])


def collected(stream: Any) -> dict[int, list[Any]]:
    """The tokens of each prompt, in the order in which they came."""
    tokens: dict[int, list[Any]] = {}
    for index, token in stream:
        tokens.setdefault(index, []).append(token)
    return tokens


def ids(tokens: Sequence[Any]) -> list[int]:
    return [token.id for token in tokens]


def wait_until_free(runner: FakeRunner) -> None:
    patience = threading.Event()
    while runner.open_slots and not patience.wait(0.001):
        pass


def test_a_model_that_batches_says_so_by_its_type() -> None:
    with fake_model(FakeRunner()) as model:
        assert isinstance(model, BatchModel)


@LOOKAHEADS
def test_every_prompt_gets_its_own_tokens_in_order_and_one_finish(lookahead: int) -> None:
    prompts = [[n, n + 1] for n in range(100)]
    with fake_model(FakeRunner(lookahead=lookahead, max_slots=8, batch_size=32)) as model:
        tokens = collected(model.batch_generate(prompts, max_tokens=7))
    assert {index: ids(found) for index, found in tokens.items()} == {
        index: continuation(prompt, 7) for index, prompt in enumerate(prompts)
    }
    for found in tokens.values():
        assert [token.finish is not None for token in found] == [False] * 6 + [True]


def test_text_and_ids_may_be_mixed() -> None:
    with fake_model(FakeRunner(max_slots=2)) as model:
        tokens = collected(model.batch_generate(["ab", [97, 98]], max_tokens=4))
    assert ids(tokens[0]) == ids(tokens[1]) == continuation([97, 98], 4)


def test_the_slots_are_made_at_once_and_all_used() -> None:
    runner = FakeRunner(slots=1, max_slots=8, batch_size=16)
    with fake_model(runner) as model:
        collected(model.batch_generate([[n] for n in range(8)], max_tokens=20))
    assert runner.most_open == 8
    assert max(len(step) for step in runner.steps) == 8


def test_an_endless_iterable_is_taken_as_slots_become_free() -> None:
    taken = itertools.count()
    prompts = ([next(taken) % 200] for _ in itertools.count())
    with fake_model(FakeRunner(max_slots=4)) as model, model.batch_generate(prompts, max_tokens=3) as stream:
        for _, (_, token) in zip(range(3000), stream, strict=False):
            assert token.finish is None or token.finish.reason == "length"
    assert next(taken) <= 1000 + 2 * 4


def test_the_iterable_is_read_on_the_consumers_thread() -> None:
    threads = set()

    def prompts() -> Iterator[list[int]]:
        for n in range(20):
            threads.add(threading.get_ident())
            yield [n]

    with fake_model(FakeRunner(max_slots=2)) as model:
        collected(model.batch_generate(prompts(), max_tokens=2))
    assert threads == {threading.get_ident()}


def test_no_prompts_are_no_tokens() -> None:
    with fake_model(FakeRunner()) as model:
        assert list(model.batch_generate([])) == []


@pytest.mark.parametrize(
    ("bad", "kind", "words"),
    [
        ("", EmptyPromptError, "Prompt 1: The prompt is empty"),
        ([], EmptyPromptError, "Prompt 1: The prompt has no tokens"),
        ([1] * 600, PromptTooLongError, "Prompt 1: The prompt has 600 tokens"),
        ([1, 999], InvalidTokenError, "Prompt 1: Token 999"),
        (None, PromptError, "Prompt 1: .*NoneType"),
        (b"ab", PromptError, "Prompt 1: .*bytes"),
    ],
)
def test_a_prompt_that_cannot_run_is_named_and_stops_no_other(bad: Any, kind: type[Exception], words: str) -> None:
    with fake_model(FakeRunner(max_slots=2)) as model:
        tokens = collected(model.batch_generate([[1], bad, [2]], max_tokens=5))
    assert ids(tokens[0]) == continuation([1], 5)
    assert ids(tokens[2]) == continuation([2], 5)
    (last,) = tokens[1]
    assert (last.id, last.text, last.finish.reason) == (-1, "", "error")
    with pytest.raises(kind, match=words):
        raise last.finish.error


@LOOKAHEADS
def test_a_sequence_that_the_device_fails_ends_with_the_error_and_the_batch_goes_on(lookahead: int) -> None:
    def failing(tokens: Sequence[int]) -> int:
        return -1 if tokens[0] == 13 and len(tokens) > 3 else 7

    runner = FakeRunner(lookahead=lookahead, slots=1, next_token=failing)
    with fake_model(runner) as model:
        tokens = collected(model.batch_generate([[12], [13], [14]], max_tokens=6))
    assert isinstance(tokens[1][-1].finish.error, EngineError)
    assert ids(tokens[0]) == ids(tokens[2]) == [7] * 6


def test_an_iterable_that_raises_is_heard_after_the_prompts_before_it_were_served() -> None:
    def prompts() -> Iterator[list[int]]:
        yield from ([n] for n in range(3))
        raise ZeroDivisionError("no fourth prompt")

    with fake_model(FakeRunner(max_slots=2)) as model:
        stream = model.batch_generate(prompts(), max_tokens=4)
        tokens: dict[int, list[int]] = {}
        with pytest.raises(ZeroDivisionError, match="no fourth prompt") as caught:
            for index, token in stream:
                tokens.setdefault(index, []).append(token.id)
    assert tokens == {n: continuation([n], 4) for n in range(3)}
    assert "when prompt 3 was asked for" in caught.value.__notes__[0]


def test_options_are_checked_at_the_call() -> None:
    with fake_model(FakeRunner()) as model:
        with pytest.raises(UnknownOptionError, match="did you mean `top_k`"):
            model.batch_generate([[1]], topk=4)
        with pytest.raises(InvalidTokenError, match="999 in `stop_tokens`"):
            model.batch_generate([[1]], stop_tokens=[999])
        with pytest.raises(PromptError, match="iterable of prompts, got str"):
            model.batch_generate("one prompt")
        with pytest.raises(PromptError, match="got int"):
            model.batch_generate(5)  # type: ignore[arg-type]


@pytest.mark.parametrize("how", ["close", "with", "drop"])
def test_a_consumer_that_goes_away_frees_all_slots(how: str) -> None:
    runner = FakeRunner(max_slots=4, next_token=lambda tokens: 7, context_length=10**6)
    with fake_model(runner) as model:
        stream = model.batch_generate([[n] for n in range(50)], max_tokens=10**5)
        next(stream)
        if how == "close":
            stream.close()
        elif how == "with":
            with stream:
                pass
        else:
            del stream
            gc.collect()
        wait_until_free(runner)
        assert len(list(model.generate([1], max_tokens=2, timeout=10))) == 2
    assert model.stats().waiting == 0


def test_a_model_that_is_closed_under_a_batch_says_so_to_each_prompt() -> None:
    runner = FakeRunner(max_slots=2, next_token=lambda tokens: 7, context_length=10**6)
    model = fake_model(runner)
    stream = model.batch_generate(([n] for n in range(3)), max_tokens=10**5)
    next(stream)
    model.close()
    errors = [token.finish.error for _, token in stream if token.finish is not None]
    assert [type(error) for error in errors] == [ModelClosedError] * 3
    with pytest.raises(ModelClosedError):
        model.batch_generate([[1]])


def test_a_long_batch_on_a_closed_model_ends_with_the_error() -> None:
    model = fake_model(FakeRunner(max_slots=2))
    with pytest.raises(ModelClosedError):
        for number, _ in enumerate(model.batch_generate(([n % 200] for n in itertools.count()), max_tokens=2)):
            if number == 20:
                model.close()


def test_two_batches_and_single_calls_share_one_model() -> None:
    with fake_model(FakeRunner(max_slots=4, batch_size=32)) as model:
        results: dict[str, dict[int, list[Any]]] = {}

        def run(name: str, start: int) -> None:
            results[name] = collected(model.batch_generate([[start + n] for n in range(40)], max_tokens=5))

        threads = [threading.Thread(target=run, args=item) for item in (("a", 0), ("b", 100))]
        for thread in threads:
            thread.start()
        single = [model.generate([n], max_tokens=5) for n in range(200, 220)]
        assert [ids(list(stream)) for stream in single] == [continuation([n], 5) for n in range(200, 220)]
        for thread in threads:
            thread.join()
    for name, start in (("a", 0), ("b", 100)):
        assert {i: ids(t) for i, t in results[name].items()} == {n: continuation([start + n], 5) for n in range(40)}


def test_ten_thousand_calls_at_once_are_all_served() -> None:
    with fake_model(FakeRunner(max_slots=32, batch_size=64)) as model:
        streams = [model.generate([n % 250, n // 250], max_tokens=2) for n in range(10_000)]
        for n, stream in enumerate(streams):
            assert ids(list(stream)) == continuation([n % 250, n // 250], 2)


def blocked(**arguments: Any) -> tuple[EngineModel, FakeRunner, threading.Event]:
    """A model whose first step waits for the event."""
    gate = threading.Event()
    runner = FakeRunner(max_slots=1)
    runner.before_step = lambda: gate.wait(10) and None
    return fake_model(runner, **arguments), runner, gate


def test_a_queue_that_is_full_refuses_one_more_call_and_serves_the_others() -> None:
    model, _, gate = blocked(max_waiting=3)
    with model:
        streams = [model.generate([n], max_tokens=2) for n in range(4)]
        with pytest.raises(QueueFullError, match=r"4 calls run or wait.*`max_waiting`"):
            model.generate([9])
        gate.set()
        assert [ids(list(stream)) for stream in streams] == [continuation([n], 2) for n in range(4)]
        assert ids(list(model.generate([9], max_tokens=2))) == continuation([9], 2)


def test_a_batch_holds_back_where_the_queue_is_full() -> None:
    with fake_model(FakeRunner(max_slots=1), max_waiting=1) as model:
        others = [threading.Thread(target=lambda: collected(model.batch_generate([[1]] * 20, max_tokens=2)))] * 1
        for other in others:
            other.start()
        tokens = collected(model.batch_generate([[n] for n in range(30)], max_tokens=3))
        for other in others:
            other.join()
    assert {index: ids(found) for index, found in tokens.items()} == {n: continuation([n], 3) for n in range(30)}


def test_one_who_waits_can_be_cancelled_or_time_out_before_its_turn() -> None:
    model, runner, gate = blocked()
    with model:
        first = model.generate([1], max_tokens=2)
        late = model.generate([2], max_tokens=2, timeout=0.0)
        left = model.generate([3], max_tokens=2)
        left.cancel()
        last = model.generate([4], max_tokens=2)
        gate.set()
        assert ids(list(first)) == continuation([1], 2)
        assert ids(list(last)) == continuation([4], 2)
        for stream, reason in ((late, "timeout"), (left, "cancelled")):
            assert ids(list(stream)) == [-1]
            assert stream.finish_reason == reason
    assert [len(feed) for step in runner.steps for row in step if (feed := row.feed)] == [1, 1]


def test_a_timeout_of_a_batch_counts_for_each_prompt() -> None:
    runner = FakeRunner(max_slots=2, next_token=lambda tokens: 7, context_length=10**6)
    with fake_model(runner) as model:
        tokens = collected(model.batch_generate([[1], [2]], max_tokens=10**5, timeout=0.05))
    assert [found[-1].finish.reason for found in tokens.values()] == ["timeout", "timeout"]


def test_max_waiting_must_be_a_positive_number() -> None:
    from inference import LoadOptions

    with pytest.raises(OptionValueError, match="`max_waiting` must be at least 1"):
        LoadOptions(max_waiting=0)


def test_after_an_error_there_is_nothing_left_and_nobody_waits_for_it() -> None:
    model = fake_model(FakeRunner())
    stream = model.batch_generate([[1], [2]])
    model.close()
    with pytest.raises(ModelClosedError):
        next(stream)
    assert next(stream, None) is None


def test_a_source_that_is_interrupted_ends_the_batch_at_once() -> None:
    def prompts() -> Iterator[list[int]]:
        yield [1]
        raise KeyboardInterrupt

    with fake_model(FakeRunner()) as model:
        stream = model.batch_generate(prompts(), max_tokens=2)
        with pytest.raises(KeyboardInterrupt):
            next(stream)
        assert next(stream, None) is None


def test_an_interrupt_while_a_prompt_is_encoded_leaves_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_model(FakeRunner()) as model:
        stream = model.batch_generate(["a", "b"], max_tokens=2)

        def interrupted(*_: Any, **__: Any) -> list[int]:
            raise KeyboardInterrupt

        monkeypatch.setattr(model.tokenizer, "encode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            next(stream)
        assert next(stream, None) is None


def test_tokens_that_have_come_are_handed_out_before_a_slow_source_is_asked_again() -> None:
    asked: list[int] = []

    def prompts() -> Iterator[list[int]]:
        for n in range(3):
            asked.append(n)
            if n:
                threading.Event().wait(0.02)  # slower than a source that is taken in bursts
            yield [n]

    with fake_model(FakeRunner(max_slots=4)) as model:
        stream = model.batch_generate(prompts(), max_tokens=3)
        first = next(stream)
        assert first[0] == 0
        assert asked == [0, 1], "what was at hand was submitted, and its tokens come first"
        assert collected(stream).keys() == {0, 1, 2}


def test_a_batch_that_another_thread_closes_ends_its_reader() -> None:
    runner = FakeRunner(max_slots=2, next_token=lambda tokens: 7, context_length=10**7)
    with fake_model(runner) as model:
        stream = model.batch_generate(([n % 200] for n in itertools.count()), max_tokens=10**6)
        next(stream)
        closer = threading.Timer(0.02, stream.close)
        closer.start()
        for index, _ in stream:
            assert index >= 0
        closer.join()
        wait_until_free(runner)


def test_a_batch_leaves_room_in_the_queue_for_single_calls() -> None:
    with fake_model(FakeRunner(slots=4), max_waiting=4) as model:
        stream = model.batch_generate([[n % 200] for n in range(400)], max_tokens=2)
        for n, _ in enumerate(stream):
            if n % 20 == 0:
                assert len(list(model.generate([9], max_tokens=2))) == 2


def test_an_iterator_is_no_prompt() -> None:
    with fake_model(FakeRunner()) as model, pytest.raises(PromptError, match="got count"):
        model.generate(itertools.count())  # type: ignore[arg-type]
