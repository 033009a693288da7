"""The measuring cases of many at once: with sessions that are made up, and on the engine with a made-up device."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import sleep

import pytest
from gguf_files import write_model
from hypothesis import given
from hypothesis import strategies as st

from inference.measuring import (
    Arrivals,
    BatchDecode,
    Case,
    Cell,
    Classify,
    Entry,
    LongestGap,
    MemoryGrowth,
    Rate,
    Sample,
    Sampling,
    SecondTurn,
    Settings,
    classify_prompts,
    markdown,
)
from inference.measuring.classify import INSTRUCTION, sentences
from inference.measuring.resident import resident_bytes

SETTINGS = Settings(threads=1, context_length=128)
MODEL = Path("model.gguf")


class FakeStream(Iterator[object]):
    """Tokens without end."""

    def __init__(self, tokens: int) -> None:
        self.left = tokens
        self.closed = False

    def __next__(self) -> object:
        if not self.left:
            raise StopIteration
        self.left -= 1
        sleep(0.0005)  # threads that read other streams get their turn
        return self.left

    def close(self) -> None:
        self.closed = True


class FakeSession:
    """Writes down what it is asked for."""

    def __init__(self) -> None:
        self.prompts: list[list[int]] = []
        self.streams: list[FakeStream] = []
        self.chats: list[tuple[list[str], int, str]] = []
        self.batches: list[tuple[list[list[int]], int]] = []
        self.classified: list[list[str]] = []
        self.closed = False

    def encode(self, text: str) -> list[int]:
        return [0, *text.encode()]

    def text(self, pieces: Sequence[object]) -> str:
        return ""

    def stream(self, prompt: Sequence[int], tokens: int, sampling: Sampling) -> Iterator[object]:
        self.prompts.append(list(prompt))
        return iter(range(tokens))

    def start(self, prompt: Sequence[int], tokens: int) -> FakeStream:
        self.prompts.append(list(prompt))
        self.streams.append(FakeStream(tokens))
        return self.streams[-1]

    def batch(self, prompts: Sequence[Sequence[int]], tokens: int) -> Iterator[int]:
        self.batches.append(([list(prompt) for prompt in prompts], tokens))
        for _ in range(tokens):
            yield from range(len(prompts))

    def rate(self, prompts: Sequence[str], labels: Sequence[str]) -> Rate:
        self.classified.append(list(prompts))
        return Rate(7.0, {"prefill, tokens/s": 300.0})

    def chat(self, turns: Sequence[str], tokens: int, scope: str) -> Iterator[object]:
        self.chats.append((list(turns), tokens, scope))
        return iter(["a", "b"])

    def close(self) -> None:
        self.closed = True


@dataclass
class OneAtATime:
    """A competitor that takes one prompt at a time."""

    name: str = "one"
    ours: bool = True
    packages: Sequence[str] = ()
    session: FakeSession = field(default_factory=FakeSession)
    settings: Settings | None = None

    def reason_unavailable(self) -> str | None:
        return None

    def load(self, model: Path, settings: Settings) -> FakeSession:
        self.settings = settings
        return self.session


@dataclass
class Many(OneAtATime):
    """A competitor that can do everything."""

    def load_batches(self, model: Path, settings: Settings) -> FakeSession:
        return self.load(model, settings)

    load_server = load_classifier = load_chat = load_batches


def samples_of(case: Case, competitor: OneAtATime, *numbers: int) -> list[Sample]:
    with case.prepared(competitor) as repeat:
        samples = [repeat(number) for number in numbers]
    assert competitor.session.closed
    return samples


# Batches -------------------------------------------------------------------------------------------------------------


def test_a_batch_has_as_many_prompts_of_mixed_lengths_as_asked_for_and_the_same_each_round() -> None:
    many = Many()
    case = BatchDecode(MODEL, SETTINGS, sequences=8, tokens=5, shortest=3, longest=10)
    samples = samples_of(case, many, 0, 1)
    (prompts, tokens), again = many.session.batches
    assert (prompts, tokens) == again
    assert tokens == 5
    assert sorted(map(len, prompts)) == [3, 4, 5, 6, 7, 8, 9, 10]
    assert len({tuple(prompt[1:3]) for prompt in prompts}) == 8, "they have a beginning in common"
    assert samples[0].work == samples[1].work
    assert many.settings is not None
    assert many.settings.parallel == 8


def test_who_takes_one_prompt_at_a_time_gets_the_first_few_of_the_same() -> None:
    case = BatchDecode(MODEL, SETTINGS, sequences=8, tokens=5, alone=2)
    many, one = Many(), OneAtATime()
    together, alone = samples_of(case, many, 1) + samples_of(case, one, 1)
    assert one.session.prompts == many.session.batches[0][0][:2]
    assert together.work == alone.work
    assert one.settings is not None
    assert one.settings.parallel == 1
    assert alone.value > 0


def test_a_sequence_that_got_too_few_tokens_is_an_error() -> None:
    arrivals = Arrivals(2)
    for sequence in (0, 1, 0):
        arrivals.add(sequence, 1.0)
    with pytest.raises(RuntimeError, match="prompt 1 was continued by 1 tokens instead of 2"):
        arrivals.require(2)


def arrived(steps: Sequence[Sequence[int]], seconds: Sequence[float]) -> Arrivals:
    """A burst of tokens at the end of each step."""
    arrivals = Arrivals(1 + max(number for step in steps for number in step))
    now = 0.0
    for step, duration in zip(steps, seconds, strict=True):
        now += duration
        for place, number in enumerate(step):
            arrivals.add(number, now + place * 1e-6)
    return arrivals


def test_the_rate_counts_from_the_step_in_which_the_last_sequence_began_to_that_in_which_the_first_ended() -> None:
    # 2 begins last, and in the middle of its step; 0 ends first, a step before the others.
    arrivals = arrived([[0], [0, 1], [0, 2, 1], [2, 1, 0], [0, 1, 2], [1, 2]], [9, 9, 9, 1, 1, 0.5])
    assert arrivals.rate() == pytest.approx(6 / 2, rel=1e-3)
    assert arrivals.rate(to_the_end=True) == pytest.approx(8 / 2.5, rel=1e-3)


def test_sequences_that_never_run_all_together_have_no_rate() -> None:
    with pytest.raises(RuntimeError, match="the first sequence had ended before the last began"):
        arrived([[0], [0], [0, 1], [1]], [1, 1, 1, 1]).rate()


@given(st.integers(2, 12), st.integers(2, 12), st.randoms(use_true_random=False))
def test_in_lockstep_the_rate_is_that_of_the_steps_in_whatever_order_tokens_arrive(
    sequences: int, tokens: int, random: object
) -> None:
    steps = [random.sample(range(sequences), sequences) for _ in range(tokens)]  # type: ignore[attr-defined]
    arrivals = arrived(steps, [0.1] * tokens)
    arrivals.require(tokens)
    assert arrivals.rate() == pytest.approx(sequences / 0.1, rel=1e-2)
    assert arrivals.rate(to_the_end=True) == pytest.approx(sequences / 0.1, rel=1e-2)


# Classification ------------------------------------------------------------------------------------------------------


def test_the_sentences_are_all_different_and_always_the_same() -> None:
    assert len(set(sentences(2000))) == 2000
    assert sentences(2000)[:40] == sentences(40)
    assert all(prompt.startswith(INSTRUCTION) for prompt in classify_prompts(40))


def test_classification_takes_all_sentences_and_a_tenth_of_them_to_warm_up() -> None:
    many = Many()
    samples = samples_of(Classify(MODEL, SETTINGS, sentences=40), many, 0, 1, 2)
    assert [len(prompts) for prompts in many.session.classified] == [4, 40, 40]
    assert (samples[1].value, samples[1].beside) == (7.0, {"prefill, tokens/s": 300.0})
    assert samples[1].work == samples[2].work
    json.dumps(Classify(MODEL, SETTINGS).facts())


# Turns, gaps, memory -------------------------------------------------------------------------------------------------


def test_a_second_turn_follows_a_first_of_the_same_scope_and_a_new_scope_computes_it_anew() -> None:
    many = Many()
    (sample,) = samples_of(SecondTurn(MODEL, SETTINGS, histories=(20, 40)), many, 3)
    calls = [(len(turns), tokens) for turns, tokens, _ in many.session.chats]
    assert calls == [(1, 8), (3, 1), (1, 8), (3, 1), (3, 1)]
    scopes = [scope for _, _, scope in many.session.chats]
    assert scopes[0] == scopes[1] != scopes[2] == scopes[3] != scopes[4] != scopes[0]
    first, second = many.session.chats[2][0], many.session.chats[3][0]
    assert second[:2] == [*first, "ab"]
    assert many.session.chats[4][0] == second
    assert list(sample.beside) == ["20 tokens, ms", "40 tokens, ms", "longest / shortest", "computed anew, ms"]
    assert sample.value == sample.beside["40 tokens, ms"] > 0


def test_a_prompt_that_arrives_has_its_length_and_another_beginning_each_round() -> None:
    many = Many()
    samples = samples_of(LongestGap(MODEL, SETTINGS, prompt_tokens=300, before=4, after=2), many, 0, 1)
    _, first, _, second = many.session.prompts
    assert (len(first), len(second)) == (300, 300)
    assert first[1:9] != second[1:9]
    assert many.settings is not None
    assert (many.settings.parallel, many.settings.context_length) == (2, 556)
    assert all(stream.closed for stream in many.session.streams[::2])
    assert all(sample.value >= 0 for sample in samples)


def test_a_stream_that_ends_before_the_prompt_has_its_token_is_an_error() -> None:
    class Short(FakeSession):
        def start(self, prompt: Sequence[int], tokens: int) -> FakeStream:
            return super().start(prompt, min(tokens, 6))

    many = Many(session=Short())
    with pytest.raises(RuntimeError, match="ended after"):
        samples_of(LongestGap(MODEL, SETTINGS, prompt_tokens=20, before=4, after=3), many, 0)


def test_an_arriving_prompt_that_fails_is_told() -> None:
    class Failing(FakeStream):
        def __next__(self) -> object:
            raise ValueError("no room")

    class Session(FakeSession):
        def start(self, prompt: Sequence[int], tokens: int) -> FakeStream:
            return Failing(1) if tokens == 1 else super().start(prompt, tokens)

    with pytest.raises(ValueError, match="no room"):
        samples_of(LongestGap(MODEL, SETTINGS, prompt_tokens=20, before=4, after=2), Many(session=Session()), 0)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system does not tell the resident set")
def test_all_requests_are_made_and_one_in_ten_is_given_up() -> None:
    many = Many()
    samples = samples_of(MemoryGrowth(MODEL, SETTINGS, requests=1000), many, 1)
    in_batches = sum(len(prompts) for prompts, _ in many.session.batches)
    assert in_batches + len(many.session.streams) == 1000
    assert len(many.session.streams) == 100
    assert all(stream.closed for stream in many.session.streams)
    assert sum(stream.left < 64 for stream in many.session.streams) == 50
    assert 1 < samples[0].beside["resident, MB"] < resident_bytes()


def test_cases_skip_who_cannot_do_the_work() -> None:
    one = OneAtATime()
    cases: list[Case] = [
        Classify(MODEL, SETTINGS),
        SecondTurn(MODEL, SETTINGS),
        LongestGap(MODEL, SETTINGS),
        MemoryGrowth(MODEL, SETTINGS),
    ]
    assert all(case.reason_unsuited(one) for case in cases)
    assert BatchDecode(MODEL, SETTINGS).reason_unsuited(one) is None


def test_a_chat_is_measured_only_where_the_file_has_a_template(tmp_path: Path) -> None:
    bare = write_model(tmp_path / "bare.gguf")
    able = write_model(tmp_path / "able.gguf", {"tokenizer.chat_template": "{{ messages }}"})
    assert SecondTurn(bare, SETTINGS).reason_unsuited(Many()) == "the file carries no chat template"
    assert SecondTurn(able, SETTINGS).reason_unsuited(Many()) is None


# Figures beside the figure -------------------------------------------------------------------------------------------


def test_figures_beside_are_in_the_table_and_in_json_and_come_back() -> None:
    entry = Entry("a", True)
    for number, gap in enumerate((5.0, 7.0, 6.0), 1):
        entry.add(number, Sample(1.0, "", {"median gap, ms": gap}))
    cell = Cell("case", None, "ms", {}, {}, [entry])
    assert markdown([cell]).splitlines()[-1].endswith("median gap, ms 6.000 |")
    assert Cell.from_json(cell.to_json({})) == cell
