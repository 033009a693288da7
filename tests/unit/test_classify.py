"""`classify`: probabilities of labels, the likeliest token, logits."""

from __future__ import annotations

import itertools
import math
import pickle
import tracemalloc
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from fakes import VOCABULARY, FakeRunner, FakeTokenizer, continuation, fake_logits, fake_logprobs, fake_model
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.engine.labels import Labels
from inference.errors import EngineError, ModelClosedError, OptionValueError, PromptError, PromptTooLongError

LOOKAHEADS = pytest.mark.parametrize("lookahead", [0, 1])


def expected(prompt: Sequence[int], label: str) -> float:
    """The log-probability of a label, one token after the other."""
    tokens, total = list(prompt), 0.0
    for token in label.encode():
        total += fake_logprobs(tokens)[token]
        tokens.append(token)
    return total


@LOOKAHEADS
@pytest.mark.parametrize("abilities", [{}, {"can_fork": False}, {"can_fork": False, "can_trim": False}])
@pytest.mark.parametrize(
    "labels",
    [
        ["a", "b"],
        [" positive", " negative"],
        ["very good", "very bad", "good", "bad"],
        ["no", "none", "nobody", "n"],
        ["only one"],
    ],
    ids=["single tokens", "several tokens", "a shared beginning", "beginnings of others", "one label"],
)
def test_each_label_is_scored_whole(labels: list[str], abilities: dict[str, bool], lookahead: int) -> None:
    prompts = [[1, 2, 3], [4, 5], list(range(40))]
    runner = FakeRunner(lookahead=lookahead, max_slots=2, **abilities)  # type: ignore[arg-type]
    with fake_model(runner) as model:
        found = list(model.classify(prompts, labels=labels))
    for prompt, classification in zip(prompts, found, strict=True):
        wanted = {label: expected(prompt, label) for label in labels}
        assert list(classification.logprobs) == list(classification.probabilities) == labels
        assert classification.logprobs == pytest.approx(wanted)
        total = math.fsum(map(math.exp, wanted.values()))
        shares = {label: math.exp(logprob) / total for label, logprob in wanted.items()}
        assert classification.probabilities == pytest.approx(shares)
        assert math.fsum(classification.probabilities.values()) == pytest.approx(1)
        assert classification.label == max(wanted, key=wanted.__getitem__)
        assert (classification.token, classification.logits, classification.error) == (None, None, None)


def test_the_prompt_and_a_beginning_that_labels_share_are_computed_once() -> None:
    runner = FakeRunner()
    with fake_model(runner) as model:
        list(model.classify([list(range(50))], labels=["very good", "very bad"]))
    # "very " is asked at each of its 5 tokens, then "goo" and "ba" go on: the last token of a label is never fed.
    assert runner.computed == 50 + 5 + 3 + 2


def test_single_token_labels_take_one_pass_of_the_prompt() -> None:
    runner = FakeRunner()
    with fake_model(runner) as model:
        list(model.classify([[1, 2, 3]], labels=["a", "b", "c"]))
    assert [len(step) for step in runner.steps] == [1]
    assert runner.computed == 3


@LOOKAHEADS
def test_without_labels_it_is_the_likeliest_next_token(lookahead: int) -> None:
    prompts = [[n, n] for n in range(20)]
    with fake_model(FakeRunner(lookahead=lookahead, max_slots=4)) as model:
        found = list(model.classify(prompts))
    for prompt, classification in zip(prompts, found, strict=True):
        (token,) = continuation(prompt, 1)
        assert classification.token is not None
        assert classification.token.id == token
        assert classification.token.logprob == pytest.approx(fake_logprobs(prompt)[token])
        assert classification.token.text == FakeTokenizer().decode([token])
        assert (classification.label, classification.probabilities) == (None, {})


@pytest.mark.parametrize("labels", [None, ["a", "bc"]])
def test_logits_come_only_when_asked_for(labels: list[str] | None) -> None:
    runner = FakeRunner()
    with fake_model(runner) as model:
        (without,) = model.classify([[1, 2]], labels=labels)
        (with_them,) = model.classify([[1, 2]], labels=labels, return_logits=True)
    assert without.logits is None
    assert with_them.logits == fake_logits([1, 2])
    assert len(with_them.logits or ()) == VOCABULARY
    assert with_them.label == without.label
    assert sum(row.logits for step in runner.steps for row in step) == 1


def test_results_come_in_the_order_of_the_prompts_whatever_their_lengths() -> None:
    prompts = [[n % 7] * (1 + n * 37 % 60) for n in range(150)]
    with fake_model(FakeRunner(max_slots=8, batch_size=64)) as model:
        found = [c.token.id for c in model.classify(prompts) if c.token is not None]
    assert found == [continuation(prompt, 1)[0] for prompt in prompts]


def test_an_endless_iterable_is_taken_lazily() -> None:
    taken = itertools.count()
    with fake_model(FakeRunner(max_slots=2)) as model:
        stream = model.classify([next(taken) % 200] for _ in itertools.count())
        for _ in range(100):
            next(stream)
        stream.close()
    assert next(taken) <= 100 + 4 * 2


def test_a_prompt_that_cannot_run_gives_an_error_in_its_place() -> None:
    with fake_model(FakeRunner()) as model:
        found = list(model.classify(["a", "", "b", [1] * 600], labels=["x", "y"]))
    assert [c.error is None for c in found] == [True, False, True, False]
    assert str(found[1].error).startswith("Prompt 1: The prompt is empty")
    assert isinstance(found[3].error, PromptTooLongError)
    assert found[1].label is None


def test_labels_need_room_in_the_context_too() -> None:
    with fake_model(FakeRunner(context_length=10)) as model:
        fits, too_long = model.classify([[1] * 7, [1] * 8], labels=["long", "l"])
        assert fits.error is None
        assert "holds 10, 3 of them for the labels" in str(too_long.error)
        (whole,) = model.classify([[1] * 10], labels=["l"])
        assert whole.error is None


def test_a_step_that_fails_is_the_error_of_its_prompts() -> None:
    calls = itertools.count()

    class Failing(FakeRunner):
        def step(self, rows: Any) -> Any:
            if next(calls) == 1:
                raise EngineError("this step failed")
            return super().step(rows)

    with fake_model(Failing(slots=1)) as model:
        found = list(model.classify([[1], [2], [3]], labels=["a", "b"]))
    assert [c.error is None for c in found] == [True, False, True]
    assert "this step failed" in str(found[1].error)


def test_an_iterable_that_raises_is_heard_after_the_prompts_before_it() -> None:
    def prompts() -> Iterator[list[int]]:
        yield [1]
        yield [2]
        raise KeyError("no third prompt")

    with fake_model(FakeRunner()) as model:
        stream = model.classify(prompts())
        assert next(stream).token is not None
        assert next(stream).token is not None
        with pytest.raises(KeyError, match="no third prompt"):
            next(stream)


def test_logits_that_are_not_finite_are_an_error() -> None:
    class Damaged(FakeRunner):
        def step(self, rows: Any) -> Any:
            pending = super().step(rows)
            pending.scores = lambda: [[math.nan] * len(row.score) if row.score else None for row in rows]
            pending.tokens = lambda: [-1] * len(rows)
            return pending

    with fake_model(Damaged()) as model:
        (labelled,) = model.classify([[1]], labels=["a", "b"])
        (token,) = model.classify([[1]])
    for classification in (labelled, token):
        assert "no finite logits" in str(classification.error)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([], "`labels` is empty"),
        ("positive", "must be a sequence of strings, got 'positive'"),
        (["a", "b", "a"], "'a' is there twice: items 0 and 2"),
        (["a", ""], "The label '' has no tokens"),
        (["a", 5], "item 1 is 5"),
    ],
)
def test_labels_that_make_no_sense_are_refused_at_the_call(labels: Any, words: str) -> None:
    with fake_model(FakeRunner()) as model, pytest.raises(OptionValueError, match=words):
        model.classify([[1]], labels=labels)


def test_prompts_must_be_an_iterable() -> None:
    with fake_model(FakeRunner()) as model, pytest.raises(PromptError, match="got str"):
        model.classify("one sentence")


def test_a_closed_model_classifies_nothing() -> None:
    model = fake_model(FakeRunner())
    model.close()
    with pytest.raises(ModelClosedError):
        model.classify([[1]])


class SpacePutting(FakeTokenizer):
    """Puts a space in front of a text, as SentencePiece vocabularies do."""

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        return list((" " + text).encode()) if not text.startswith("\n") else list(text.encode())


def test_a_label_gets_no_space_that_it_does_not_have() -> None:
    labels = Labels(["yes", " no"], SpacePutting())
    scores = [[0.0] * len(question.score) for question in labels.questions]
    assert labels.questions[0].score == (ord(" "), ord("y"))
    assert list(labels.logprobs(scores)) == ["yes", " no"]


def test_a_label_that_the_vocabulary_changes_is_refused() -> None:
    class Lowering(FakeTokenizer):
        def encode(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
            return list(text.lower().encode())

    with pytest.raises(OptionValueError, match="'Yes' cannot be written exactly"):
        Labels(["Yes", "no"], Lowering())


def test_a_classification_can_be_sent_to_another_process() -> None:
    with fake_model(FakeRunner()) as model:
        (found,) = model.classify([[1, 2]], labels=["a", "b"], return_logits=True)
    assert pickle.loads(pickle.dumps(found)) == found


@settings(max_examples=100, deadline=None)
@given(labels=st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=8, unique=True))
def test_any_set_of_labels_is_asked_without_repeating_a_question(labels: list[str]) -> None:
    tree = Labels(labels, FakeTokenizer())
    paths: list[tuple[int, ...]] = []
    for question in tree.questions:
        paths.append((*paths[-1][: question.depth - 1], question.token) if paths else ())
        assert len(paths[-1]) == question.depth, "more than the last token of a path is new"
    assert len(set(paths)) == len(paths)
    answers = [
        [fake_logprobs([9, *path])[token] for token in question.score]
        for path, question in zip(paths, tree.questions, strict=True)
    ]
    assert tree.logprobs(answers) == pytest.approx({label: expected([9], label) for label in labels})


def test_a_label_that_no_context_holds_takes_the_memory_of_its_tokens() -> None:
    tracemalloc.start()
    with fake_model(FakeRunner(context_length=64)) as model:
        (found,) = model.classify([[1, 2]], labels=["a" * 20_000, "a" * 19_999 + "b", "b"])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(found.error, PromptTooLongError)
    assert peak < 32 * 2**20


def test_a_slow_first_prompt_does_not_let_the_answers_behind_it_pile_up() -> None:
    taken = itertools.count()

    def prompts() -> Iterator[list[int]]:
        yield [1] * 5000
        for _ in range(400):
            next(taken)
            yield [2]

    with fake_model(FakeRunner(slots=4, batch_size=8, context_length=10**4)) as model:
        stream = model.classify(prompts())
        assert next(stream).error is None
        assert next(taken) <= 4 * 4
        assert sum(1 for _ in stream) == 400


def test_a_closed_classification_gives_nothing_more() -> None:
    with fake_model(FakeRunner(max_slots=4)) as model:
        stream = model.classify([[n] for n in range(10)])
        next(stream)
        stream.close()
        assert next(stream, None) is None


def test_a_prompt_without_room_says_nothing_of_labels_where_there_are_none() -> None:
    with fake_model(FakeRunner()) as model:
        (found,) = model.classify([[1] * 600])
    assert "holds 512. Shorten" in str(found.error)
