"""The MLX runner: whatever is fed, drawn, cut and copied in whatever company, each slot computes its own tokens."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conformance.cases import CASES
from conformance.decoder import Decoder as PlainDecoder
from conformance.files import write

from inference.gguf.reader import read_header
from inference.options import GenerateOptions
from inference.protocols import Row

mx = pytest.importorskip("mlx.core")

import inference_mlx.loading as loading  # noqa: E402 - after mlx is known to be there
from inference_mlx.decoder import GGUFDecoder  # noqa: E402
from inference_mlx.loading import Sizes, load_file  # noqa: E402 - after mlx is known to be there
from inference_mlx.runner import MLXRunner  # noqa: E402

pytestmark = pytest.mark.real_model

LENGTH = 96
TOLERANCE = 1e-4
"""Largest difference of logits by their range."""
GREEDY = GenerateOptions()


def runner_of(path: Path, *, slots: int = 4, padding: float = 2.0) -> MLXRunner:
    runner = load_file(read_header(path), "cpu", Sizes(context_length=LENGTH, max_slots=slots, batch_size=512))
    runner._padding = padding
    return runner


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[[str], tuple[MLXRunner, PlainDecoder]]]:
    runners: list[MLXRunner] = []

    def make(name: str) -> tuple[MLXRunner, PlainDecoder]:
        path = tmp_path / "model.gguf"
        write(CASES[name], path)
        runners.append(runner_of(path))
        return runners[-1], PlainDecoder(path, context_length=LENGTH)

    yield make
    for runner in runners:
        runner.free()


def far(found: Any, expected: np.ndarray) -> float:
    return float(np.abs(np.asarray(found) - expected).max() / np.ptp(expected))


class Traffic:
    """Drives a runner by chance, and knows what each slot must hold."""

    def __init__(self, runner: MLXRunner, exact: PlainDecoder, seed: int) -> None:
        self.runner, self.exact, self.chance = runner, exact, random.Random(seed)
        self.holds: list[list[int]] = [[] for _ in range(runner.max_slots)]
        self.last: list[int | None] = [None] * runner.max_slots
        for slot in range(runner.max_slots):
            runner.open(slot, GREEDY, 0, [])

    def step(self) -> None:
        """Feed some slots, let others go on from what they sampled, and look at the logits of all of them."""
        slots = self.chance.sample(range(self.runner.max_slots), self.chance.randint(1, self.runner.max_slots))
        rows, expected = [], []
        for slot in slots:
            room = LENGTH - len(self.holds[slot])
            if not room:
                self.trim(slot, 0)
                room = LENGTH
            if self.last[slot] is not None and self.chance.random() < 0.6:
                self.holds[slot].append(self.last[slot])
                rows.append(Row(slot, logits=True))
            else:
                length = min(room, self.chance.choice([1, 2, 3, 7, 20, 70]))
                tokens = [self.chance.randrange(49_152) for _ in range(length)]
                self.holds[slot] += tokens
                asks = self.chance.random() < 0.8
                rows.append(Row(slot, tokens, sample=asks, logits=asks))
            expected.append(self.exact.logits(self.holds[slot], [-1])[0] if rows[-1].asks else None)
        pending = self.runner.step(rows)
        for slot, row, token, logits, wanted in zip(
            slots, rows, pending.tokens(), pending.logits(), expected, strict=True
        ):
            self.last[slot] = token if row.sample else None
            if wanted is not None:
                assert far(logits, wanted) < TOLERANCE, f"slot {slot} of {slots}"
                assert token == int(np.argmax(logits))

    def trim(self, slot: int, length: int) -> None:
        kept = self.runner.trim(slot, length)
        assert kept in (0, length)
        self._reopen(slot, self.holds[slot][:kept])

    def fork(self, source: int, slot: int, length: int) -> None:
        self.runner.close(slot)
        kept = self.runner.fork(source, slot, length)
        assert kept in (0, length)
        if kept:
            self._reopen(slot, self.holds[source][:kept])
        else:
            self.trim(slot, 0)

    def disturb(self) -> None:
        """Cut or copy a slot now and then."""
        one, other = self.chance.sample(range(self.runner.max_slots), 2)
        length = self.chance.randint(0, len(self.holds[one]))
        what = self.chance.random()
        if what < 0.2:
            self.trim(one, length)
        elif what < 0.4:
            self.fork(one, other, length)

    def _reopen(self, slot: int, tokens: list[int]) -> None:
        self.holds[slot], self.last[slot] = list(tokens), None
        self.runner.close(slot)
        self.runner.open(slot, GREEDY, 0, tokens)


@pytest.mark.parametrize(
    ("name", "seed"),
    [
        ("llama-Q4_0", 0),
        ("gemma3-one-kv-head", 0),
        ("gemma3-one-kv-head", 1),
        ("gemma2-odd-heads", 0),
        ("gpt-oss-mxfp4", 1),
    ],
)
def test_each_slot_computes_its_own_tokens_whatever_the_others_do(
    name: str, seed: int, make: Callable[[str], tuple[MLXRunner, PlainDecoder]]
) -> None:
    traffic = Traffic(*make(name), seed)
    for _ in range(20):
        traffic.step()
        traffic.disturb()


def test_steps_may_be_launched_before_any_is_read(make: Callable[[str], tuple[MLXRunner, PlainDecoder]]) -> None:
    """The device goes on from its own samples; three of the four sequences, then all, then two, as they come."""
    runner, exact = make("gemma3-one-kv-head")
    texts = {slot: [1000 + 7 * slot + n for n in range(5 + slot)] for slot in range(4)}
    for slot in texts:
        runner.open(slot, GREEDY, 0, texts[slot])
    steps = [[Row(slot, texts[slot]) for slot in range(3)], [Row(0), Row(1), Row(2), Row(3, texts[3])]]
    steps += [[Row(slot) for slot in order] for order in ([3, 1, 0, 2], [2, 1], [1, 2], [0, 1, 2, 3], [3])]
    launched = [runner.step(rows) for rows in steps]
    for rows, pending in zip(steps, launched, strict=True):
        for row, token in zip(rows, pending.tokens(), strict=True):
            texts[row.slot].append(token)
    for slot, tokens in texts.items():
        start = 5 + slot
        assert tokens[start:] == exact.logits(tokens[:-1])[start - 1 :].argmax(axis=-1).tolist()


def test_a_window_that_has_moved_on_cannot_be_cut_and_one_that_has_not_can(
    make: Callable[[str], tuple[MLXRunner, PlainDecoder]],
) -> None:
    runner, exact = make("gemma3-one-kv-head")  # a window of 24
    for slot, length in ((0, 20), (1, 40)):
        tokens = list(range(100, 100 + length))
        runner.open(slot, GREEDY, 0, tokens)
        runner.step([Row(slot, tokens)]).tokens()
    assert runner.trim(0, 12) == 12
    assert runner.fork(1, 2, 30) == 0
    assert runner.fork(1, 2, 40) == 40
    assert runner.trim(1, 30) == 0
    for slot, held in ((0, 12), (1, 0), (2, 40)):
        runner.open(slot, GREEDY, 0, [])
        (logits,) = runner.step([Row(slot, [7, 8], logits=True)]).logits()
        assert far(logits, exact.logits([*range(100, 100 + held), 7, 8], [-1])[0]) < TOLERANCE


def test_sequences_on_either_side_of_their_windows_end_may_be_fed_together(
    make: Callable[[str], tuple[MLXRunner, PlainDecoder]],
) -> None:
    runner, exact = make("gemma3-one-kv-head")  # a window of 24
    texts = {slot: [50 * slot + n for n in range(14 + 26 * slot)] for slot in (0, 1)}
    for slot, tokens in texts.items():
        runner.open(slot, GREEDY, 0, tokens)
    steps = [runner.step([Row(slot, tokens) for slot, tokens in texts.items()])]
    steps += [runner.step([Row(0), Row(1)]) for _ in range(5)]
    for step in steps:
        for slot, token in enumerate(step.tokens()):
            texts[slot].append(token)
    last = {slot: [texts[slot].pop(), 7, 8, 9] for slot in texts}
    logits = runner.step([Row(slot, more, logits=True) for slot, more in last.items()]).logits()
    for slot, found in enumerate(logits):
        assert far(found, exact.logits(texts[slot] + last[slot], [-1])[0]) < TOLERANCE


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_a_long_prompt_is_computed_in_the_types_of_a_gpu_too(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.gguf"
    write(replace(CASES["gemma3-one-kv-head"], embedding_length=64, head_length=32, feed_forward_length=64), path)
    monkeypatch.setattr(loading, "precision_of", lambda header, device: precision)
    runner = runner_of(path)
    for slot in (0, 1):
        runner.open(slot, GREEDY, 0, [])
    prompts = [list(range(70)), list(range(5, 85))]
    steps = [runner.step([Row(slot, prompt, logits=True) for slot, prompt in enumerate(prompts)])]
    steps += [runner.step([Row(0, score=[5]), Row(1, logits=True)]) for _ in range(2)]
    for step in steps:
        assert min(step.tokens()) >= 0
        assert len(step.logits()[1] or ()) == 49_152
    runner.free()


def test_logprobs_and_scores_are_of_the_plain_distribution(
    make: Callable[[str], tuple[MLXRunner, PlainDecoder]],
) -> None:
    runner, exact = make("llama-Q4_0")
    prompt = [5, 17, 300]
    runner.open(0, GenerateOptions(logprobs=3, temperature=0.5, top_k=1, logit_bias={9: 1000.0}), 0, prompt)
    pending = runner.step([Row(0, prompt, score=[4, 9])])
    logits = exact.logits(prompt, [-1])[0].astype(np.float64)
    plain = logits - np.logaddexp.reduce(logits)
    (told,), (scores,), (token,) = pending.logprobs(), pending.scores(), pending.tokens()
    assert told is not None
    assert scores is not None
    assert token == 9
    assert told.logprob == pytest.approx(plain[9], abs=1e-3)
    assert [entry.id for entry in told.top] == np.argsort(-plain)[:3].tolist()
    assert [entry.logprob for entry in told.top] == pytest.approx(np.sort(plain)[::-1][:3].tolist(), abs=1e-3)
    assert list(scores) == pytest.approx(plain[[4, 9]].tolist(), abs=1e-3)


def test_logits_that_are_not_finite_give_no_token(
    make: Callable[[str], tuple[MLXRunner, PlainDecoder]], monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, _ = make("llama-Q4_0")
    for slot in (0, 1):
        runner.open(slot, GenerateOptions(temperature=float(slot)), 0, [1])
    plain = GGUFDecoder.logits

    def damaged(decoder: GGUFDecoder, hidden: Any) -> Any:
        return mx.where(mx.arange(decoder.vocabulary_size) == 7, mx.nan, plain(decoder, hidden))

    monkeypatch.setattr(GGUFDecoder, "logits", damaged)
    assert runner.step([Row(0, [5, 6]), Row(1, [5])]).tokens() == [-1, -1]


def test_a_sequence_draws_the_same_tokens_alone_and_among_others(
    make: Callable[[str], tuple[MLXRunner, PlainDecoder]],
) -> None:
    runner, _ = make("llama-Q4_0")
    settings = [
        GenerateOptions(temperature=1.0),
        GREEDY,
        GenerateOptions(temperature=0.8, top_k=20, repeat_penalty=1.3),
        GenerateOptions(temperature=1.2, top_p=0.8, min_p=0.05, presence_penalty=0.5),
    ]
    prompts = [[slot + 3, 500, 20 * slot] for slot in range(4)]

    def drawn(slots: list[int]) -> dict[int, list[int]]:
        for slot in slots:
            runner.trim(slot, 0)
            runner.open(slot, settings[slot], 11, prompts[slot])
        steps = [runner.step([Row(slot, prompts[slot]) for slot in slots])]
        steps += [runner.step([Row(slot) for slot in slots]) for _ in range(11)]
        tokens = [step.tokens() for step in steps]
        return {slot: [row[place] for row in tokens] for place, slot in enumerate(slots)}

    together = drawn([2, 0, 3, 1])
    assert all(drawn([slot])[slot] == together[slot] for slot in range(4))
    assert len({tuple(tokens) for tokens in together.values()}) == 4
