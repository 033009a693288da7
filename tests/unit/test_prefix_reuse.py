"""What was computed for one prompt serves the next that begins like it, and changes nothing."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from fakes import FakeRunner, continuation, fake_model
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.engine.model import EngineModel
from inference.engine.prefix_cache import PrefixCache, common_length
from inference.engine.request import Answer, Request
from inference.errors import EngineError
from inference.protocols import Row
from inference.stream import TokenChannel

Make = Callable[..., tuple[EngineModel, FakeRunner]]
INSTRUCTION = list(range(100, 180))


@pytest.fixture(params=[0, 1], ids=["lookahead 0", "lookahead 1"])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    models: list[EngineModel] = []

    def make(cache_scope: str | None = None, **arguments: Any) -> tuple[EngineModel, FakeRunner]:
        runner = FakeRunner(lookahead=request.param, **{"batch_size": 256, **arguments})
        models.append(fake_model(runner, cache_scope=cache_scope))
        return models[-1], runner

    yield make
    for model in models:
        model.close()


def cached(stream: Any) -> int:
    stream.text()
    count: int = stream.stats.cached_tokens
    return count


def test_the_same_prompt_again_costs_its_last_token(make: Make) -> None:
    model, runner = make()
    prompt = list(range(50))
    first = list(model.generate(prompt, max_tokens=5))
    before = runner.computed
    again = model.generate(prompt, max_tokens=5)
    assert [token.id for token in again] == [token.id for token in first]
    assert again.stats is not None
    assert (again.stats.prompt_tokens, again.stats.cached_tokens) == (50, 49)
    assert runner.computed - before == 1


def test_the_second_turn_of_a_chat_pays_for_its_new_tokens_alone(make: Make) -> None:
    model, runner = make()
    history = list(range(60))
    answer = [token.id for token in model.generate(history, max_tokens=20)]
    question = [7, 8, 9]
    before = runner.computed
    second = model.generate([*history, *answer, *question], max_tokens=4)
    assert [token.id for token in second] == continuation([*history, *answer, *question], 4)
    # The answer's last token was sampled, and never fed.
    assert runner.computed - before == 1 + len(question)


def test_a_prompt_that_differs_early_uses_what_comes_before(make: Make) -> None:
    model, _ = make()
    cached(model.generate([*INSTRUCTION, 1, 2, 3], max_tokens=3))
    stream = model.generate([*INSTRUCTION, 1, 9], max_tokens=3)
    assert [token.id for token in stream] == continuation([*INSTRUCTION, 1, 9], 3)
    assert stream.stats is not None
    assert stream.stats.cached_tokens == len(INSTRUCTION) + 1


def test_a_shared_instruction_is_computed_once_for_a_whole_batch(make: Make) -> None:
    model, runner = make(max_slots=8)
    prompts = [[*INSTRUCTION, n, n] for n in range(60)]
    tokens: dict[int, list[int]] = {}
    for index, token in model.batch_generate(prompts, max_tokens=3):
        tokens.setdefault(index, []).append(token.id)
    assert tokens == {n: continuation(prompt, 3) for n, prompt in enumerate(prompts)}
    assert runner.computed == len(INSTRUCTION) + 2 * len(prompts)


def test_where_slots_cannot_be_copied_it_is_computed_once_for_each_slot(make: Make) -> None:
    model, runner = make(slots=4, can_fork=False)
    prompts = [[*INSTRUCTION, n] for n in range(40)]
    assert sum(1 for c in model.classify(prompts) if c.error is None) == 40
    assert runner.computed == 4 * len(INSTRUCTION) + len(prompts)


def test_a_memory_that_cannot_be_cut_computes_again_and_says_so(make: Make) -> None:
    model, _ = make(can_trim=False, can_fork=False)
    prompt = list(range(40))
    assert cached(model.generate(prompt, max_tokens=4)) == 0
    stream = model.generate(prompt, max_tokens=4)
    assert [token.id for token in stream] == continuation(prompt, 4)
    assert stream.stats is not None
    assert stream.stats.cached_tokens == 0


def test_scopes_share_nothing(make: Make) -> None:
    model, _ = make(slots=4)
    prompt = list(range(64))
    assert cached(model.generate(prompt, max_tokens=2, cache_scope="a")) == 0
    assert cached(model.generate(prompt, max_tokens=2, cache_scope="b")) == 0
    assert cached(model.generate(prompt, max_tokens=2)) == 0
    assert cached(model.generate(prompt, max_tokens=2, cache_scope="a")) == 63
    (found,) = model.classify([prompt], cache_scope="c")
    assert found.error is None
    last = model.stats().last
    assert last is not None
    assert last.cached_tokens == 0


def test_scopes_share_nothing_while_they_run_side_by_side(make: Make) -> None:
    model, runner = make(slots=4)
    gate = threading.Event()
    runner.before_step = lambda: gate.wait(5) and None
    streams = [model.generate(INSTRUCTION, max_tokens=4, cache_scope=scope) for scope in ("a", "b", "c")]
    gate.set()
    assert [cached(stream) for stream in streams] == [0, 0, 0]


def test_a_model_has_a_scope_of_its_own_if_it_was_given_one(make: Make) -> None:
    model, _ = make(cache_scope="mine", slots=2)
    prompt = list(range(64))
    assert cached(model.generate(prompt, max_tokens=2)) == 0
    assert cached(model.generate(prompt, max_tokens=2, cache_scope="mine")) == 63
    assert cached(model.generate(prompt, max_tokens=2, cache_scope="other")) == 0


def test_the_least_recently_used_prefix_goes_first(make: Make) -> None:
    model, _ = make(slots=2)
    one, two, three = ([n] * 40 for n in (1, 2, 3))
    for prompt in (one, two, one):
        cached(model.generate(prompt, max_tokens=1))
    assert cached(model.generate(three, max_tokens=1)) == 0  # where two was
    assert cached(model.generate(one, max_tokens=1)) == 39
    assert cached(model.generate(two, max_tokens=1)) == 0


def test_a_few_equal_tokens_do_not_cost_another_prefix_its_place(make: Make) -> None:
    model, _ = make(slots=2)
    chat = [0] * 8 + [5] * 40
    cached(model.generate(chat, max_tokens=1))
    assert cached(model.generate([0] * 8 + [6] * 40, max_tokens=1)) == 0
    assert cached(model.generate(chat, max_tokens=1)) == 47


def test_a_new_chat_does_not_cost_an_old_one_its_history_though_both_begin_alike(make: Make) -> None:
    model, _ = make(slots=3)
    old = [*INSTRUCTION, *[5] * 100]
    cached(model.generate(old, max_tokens=1))
    assert cached(model.generate([*INSTRUCTION, *[6] * 100], max_tokens=1)) == len(INSTRUCTION)
    assert cached(model.generate([*INSTRUCTION, *[7] * 100], max_tokens=1)) == len(INSTRUCTION)
    assert cached(model.generate([*old, 1, 2], max_tokens=1)) == len(old)


def test_a_prefix_that_was_just_copied_counts_as_used(make: Make) -> None:
    model, _ = make(slots=3)
    old = [*INSTRUCTION, *[5] * 100]
    # The fourth takes the place of the first and copies from the second; so the fifth takes that of the third.
    for prompt in ([8] * 100, old, [9] * 100, [*INSTRUCTION, *[6] * 100], [7] * 100):
        cached(model.generate(prompt, max_tokens=1))
    assert cached(model.generate(old, max_tokens=1)) == len(old) - 1


def test_a_cancelled_sequence_leaves_what_it_had_computed(make: Make) -> None:
    model, _ = make(next_token=lambda tokens: 7, context_length=10**6)
    stream = model.generate(INSTRUCTION, max_tokens=10**5)
    next(stream)
    stream.close()
    assert stream.finish_reason == "cancelled"
    again = model.generate([*INSTRUCTION, 7, 7, 7, 7], max_tokens=1)
    assert cached(again) >= len(INSTRUCTION)


def test_a_failed_sequence_leaves_nothing(make: Make) -> None:
    model, _ = make(next_token=lambda tokens: -1 if len(tokens) == 82 else 7)
    stream = model.generate(INSTRUCTION, max_tokens=10)
    with pytest.raises(Exception, match="this fake device failed"):
        stream.text()
    assert cached(model.generate(INSTRUCTION, max_tokens=1)) == 0


def test_a_sequence_whose_logits_were_damaged_leaves_nothing() -> None:
    class Damaged(FakeRunner):
        def _sample(self, slot: int) -> int:
            return -1 if len(self.holds[slot]) > len(INSTRUCTION) else super()._sample(slot)

    with fake_model(Damaged(batch_size=256)) as model:
        for _ in range(2):
            stream = model.generate(INSTRUCTION, max_tokens=5)
            with pytest.raises(EngineError, match="no finite logits"):
                stream.text()
            assert stream.stats is not None
            assert stream.stats.cached_tokens == 0


def test_one_that_waits_for_a_prefix_does_not_hold_up_others(make: Make) -> None:
    model, runner = make(slots=4, batch_size=8)
    gate = threading.Event()
    runner.before_step = lambda: gate.wait(5) and None
    leader = model.generate(INSTRUCTION, max_tokens=1)
    follower = model.generate([*INSTRUCTION, 1], max_tokens=1)
    other = model.generate([3, 4], max_tokens=1)
    gate.set()
    assert [token.id for token in other] == continuation([3, 4], 1)
    assert other.stats is not None
    assert (cached(leader), cached(follower)) == (0, len(INSTRUCTION))
    first_feeds = {row.slot: index for index, step in reversed(list(enumerate(runner.steps))) for row in step}
    assert first_feeds[1] < len(runner.steps) // 2, "the other ran while the follower waited"


def test_a_leader_that_is_cancelled_does_not_take_its_followers_with_it(make: Make) -> None:
    model, runner = make(slots=4, batch_size=8)
    gate = threading.Event()
    runner.before_step = lambda: gate.wait(5) and None
    leader = model.generate(INSTRUCTION, max_tokens=50)
    followers = [model.generate([*INSTRUCTION, n], max_tokens=3) for n in range(6)]
    leader.cancel()
    gate.set()
    for n, follower in enumerate(followers):
        assert [token.id for token in follower] == continuation([*INSTRUCTION, n], 3)


class Wish(Request):
    """A request that asks for nothing."""

    need = 1

    def _asking(self, chunk: Sequence[int]) -> Row:
        return Row(self.slot, chunk)

    def decode(self) -> Row | None:
        return None

    def accept(self, answer: Answer) -> bool:
        return False

    def end(self, reason: object, error: object = None) -> None:
        self.settle()


def wish(tokens: Sequence[int], scope: str | None = None) -> Wish:
    from inference import GenerateOptions

    return Wish(tokens, GenerateOptions(), TokenChannel(), scope)


def test_an_empty_slot_is_taken_before_any_prefix_is_lost() -> None:
    cache = PrefixCache(3)
    first = cache.place(wish([1] * 40), ())
    cache.take(first)
    cache.put_back(first.slot, None, array("i", [1] * 40))
    assert (cache.place(wish([2] * 40), ()).slot, cache.place(wish([1] * 40), ()).slot) == (1, 0)


tokens = st.lists(st.integers(0, 2), max_size=30)


@given(a=tokens, b=tokens)
def test_the_common_length_is_that_of_the_longest_common_beginning(a: list[int], b: list[int]) -> None:
    length = common_length(array("i", a), array("i", b))
    assert a[:length] == b[:length]
    assert length == min(len(a), len(b)) or a[length] != b[length]


@settings(max_examples=60, deadline=None)
@given(
    lookahead=st.sampled_from([0, 1]),
    slots=st.integers(1, 4),
    can_fork=st.booleans(),
    can_trim=st.booleans(),
    requests=st.lists(
        st.tuples(
            st.integers(0, 3),  # which beginning
            st.integers(1, 60),  # how much of it
            st.lists(st.integers(0, 3), max_size=4),
            st.sampled_from([None, "a", "b"]),
        ),
        min_size=1,
        max_size=20,
    ),
)
def test_reuse_never_changes_the_tokens(
    lookahead: int, slots: int, can_fork: bool, can_trim: bool, requests: list[Any]
) -> None:
    beginnings = [[n * 7 % 5 + k * n for k in range(60)] for n in range(4)]
    runner = FakeRunner(
        lookahead=lookahead, max_slots=slots, batch_size=16, can_fork=can_fork and can_trim, can_trim=can_trim
    )
    with fake_model(runner) as model:
        prompts = [beginnings[which][:length] + rest for which, length, rest, _ in requests]
        streams = [
            model.generate(prompt, max_tokens=5, cache_scope=scope)
            for prompt, (*_, scope) in zip(prompts, requests, strict=True)
        ]
        for prompt, stream in zip(prompts, streams, strict=True):
            assert [token.id for token in stream] == continuation(prompt, 5)
