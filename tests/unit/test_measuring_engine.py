"""The measuring cases of many at once on our own engine, with a made-up device."""

from __future__ import annotations

from pathlib import Path
from time import sleep

import pytest
from fakes import FakeBackend, FakeRunner

from inference.errors import PromptError
from inference.measuring import (
    GREEDY,
    BatchDecode,
    Case,
    Classify,
    LongestGap,
    MemoryGrowth,
    Native,
    SecondTurn,
    Settings,
)
from inference.measuring.classify import INSTRUCTION, sentences
from inference.measuring.native import NativeSession
from inference.options import LoadOptions

SETTINGS = Settings(threads=1, context_length=128)
MODEL = Path("model.gguf")

TEMPLATE = "{% for message in messages %}[{{ message.role }}] {{ message.content }}\n{% endfor %}[assistant]"
ON_ENGINE = [
    BatchDecode(MODEL, SETTINGS, sequences=4, tokens=24),
    Classify(MODEL, SETTINGS, sentences=20),
    SecondTurn(MODEL, SETTINGS, histories=(40, 300)),
    LongestGap(MODEL, SETTINGS, prompt_tokens=300),
    MemoryGrowth(MODEL, SETTINGS, requests=200),
]


@pytest.fixture
def runners(monkeypatch: pytest.MonkeyPatch) -> list[FakeRunner]:
    """The made-up devices that our engine was loaded on."""
    made: list[FakeRunner] = []

    def make() -> FakeRunner:
        made.append(FakeRunner(slots=4, context_length=1200, batch_size=64))
        made[-1].before_step = lambda: sleep(0.0005)  # else a stream is at its end before a second one begins
        return made[-1]

    def load(_: Native, model: Path, settings: Settings) -> NativeSession:
        backend = FakeBackend("fake-many", runner=make)
        return NativeSession(backend.load_model(model, LoadOptions(chat_template=TEMPLATE)))

    monkeypatch.setattr(Native, "load", load)
    return made


@pytest.mark.parametrize("case", ON_ENGINE, ids=lambda case: case.name)
def test_our_engine_does_the_work_of_each_case_and_frees_the_model(case: Case, runners: list[FakeRunner]) -> None:
    with case.prepared(Native("fake-many")) as repeat:
        samples = [repeat(number) for number in (0, 1)]
    assert [runner.freed for runner in runners] == [True]
    assert samples[1].work


def test_our_engine_uses_nothing_again_between_rounds(runners: list[FakeRunner]) -> None:
    session = Native("fake-many").load(MODEL, SETTINGS)
    for _ in range(3):
        list(session.stream([1, 2, 3, 4, 5], 1, GREEDY))
    session.close()
    assert runners.pop().computed == 15
    case = BatchDecode(MODEL, SETTINGS, sequences=4, tokens=24)
    with case.prepared(Native("fake-many")) as repeat:
        repeat(0)
        once = runners[0].computed
        repeat(1)
        assert runners[0].computed == 2 * once
    case = Classify(MODEL, SETTINGS, sentences=20)
    with case.prepared(Native("fake-many")) as repeat:
        repeat(1)
        once = runners[1].computed
        repeat(2)
        assert runners[1].computed - once > len(INSTRUCTION)


def test_our_engine_computes_the_instruction_once_for_each_slot_and_a_turns_history_not_again(
    runners: list[FakeRunner],
) -> None:
    with Classify(MODEL, SETTINGS, sentences=40).prepared(Native("fake-many")) as repeat:
        repeat(1)
    assert runners[0].computed < 4 * len(INSTRUCTION) + sum(len(text) + 24 for text in sentences(40))
    with SecondTurn(MODEL, SETTINGS, histories=(20, 600)).prepared(Native("fake-many")) as repeat:
        repeat(1)
    assert runners[1].computed < 2 * 600 + 1000, "the long history was computed a third time"


def test_a_prompt_that_fails_in_a_batch_or_in_a_classification_is_an_error(runners: list[FakeRunner]) -> None:
    session = Native("fake-many").load(MODEL, SETTINGS)
    with pytest.raises(PromptError):
        list(session.batch([[1, 2], [1] * 2000], 2))
    with pytest.raises(PromptError):
        session.rate(["a", "b" * 2000], [" yes", " no"])
    session.close()
