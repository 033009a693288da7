"""Batches, classification and prefix reuse on real models, against the same prompts alone and llama.cpp by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bare_llama import BareLlama, bare_llama

from inference import Message, TextModel, Token, load_model

pytestmark = pytest.mark.real_model

PROMPTS = [
    "The capital of France is Paris, and the capital of Italy is",
    "Once upon a time a fox met a crow who held a piece of cheese.",
    "To make bread you need",
    "1, 2, 3, 4, 5,",
    "Dear customer, we regret to tell you that",
    "def add(a, b):\n    return",
    "Water boils at",
    "The opposite of hot is",
]
INSTRUCTION = (
    "You read short reviews of restaurants and say whether the guest was content. See what is said of the food, the "
    "service and the room; a joke may be meant the other way round. Answer with one word.\n"
)
REVIEWS = [
    "I loved every bite.",
    "Never again, the soup was cold!",
    "Kind waiters, dull food.",
    "What a lovely evening.",
]

TIE = 0.35
"""Two tokens whose log-probabilities are nearer than this may change places when the batch has another shape."""
LOGIT_BOUND = 0.03
"""Largest difference of a logit between two batch shapes, as a share of the range of all logits."""


@pytest.fixture(scope="module")
def model(smollm_path: Path) -> Iterator[TextModel]:
    with load_model(smollm_path, context_length=512, threads=2, parallel=32) as model:
        yield model


@pytest.fixture(scope="module")
def bare(smollm_path: Path) -> Iterator[BareLlama]:
    with bare_llama(smollm_path) as llama:
        yield llama


def alone(model: Any, prompt: str, **options: Any) -> list[Token]:
    """The tokens of one call that shares nothing with any other."""
    return list(model.generate(prompt, logprobs=2, cache_scope=f"alone {prompt} {options}", **options))


def require_same_but_for_a_near_tie(expected: Sequence[Token], found: Sequence[int]) -> None:
    """Greedy tokens are the same, or part where the two likeliest ones were all but equal."""
    for token, other in zip(expected, found, strict=False):
        if token.id != other:
            best, second = token.top_logprobs[:2]
            assert best.logprob - second.logprob < TIE, "they part where the model was sure"
            assert other in {entry.id for entry in token.top_logprobs}
            return
    assert len(expected) == len(found)


def collected(stream: Any) -> dict[int, list[int]]:
    tokens: dict[int, list[int]] = {}
    for index, token in stream:
        tokens.setdefault(index, []).append(token.id)
    return tokens


def test_greedy_text_among_31_others_is_that_of_the_prompt_alone(model: Any) -> None:
    expected = [alone(model, prompt, max_tokens=16, ignore_eos=True) for prompt in PROMPTS]
    prompts = [prompt if n < 8 else f"{prompt} {n}" for n, prompt in enumerate(PROMPTS * 4)]
    found = collected(model.batch_generate(prompts, max_tokens=16, ignore_eos=True, cache_scope="batch"))
    assert len(found) == 32
    for n, tokens in enumerate(expected):
        require_same_but_for_a_near_tie(tokens, found[n])


def test_sampled_text_among_others_is_that_of_the_same_seed_alone(model: Any) -> None:
    options = {"max_tokens": 12, "temperature": 0.7, "top_k": 20, "seed": 5, "ignore_eos": True}
    expected = [[token.id for token in alone(model, prompt, **options)] for prompt in PROMPTS]
    found = collected(model.batch_generate(PROMPTS, cache_scope="sampled", **options))
    same = [found[n] == tokens for n, tokens in enumerate(expected)]
    # A draw that falls on the border between two tokens goes the other way by the smallest rounding.
    assert sum(same) >= 6
    assert all(found[n][0] == tokens[0] for n, tokens in enumerate(expected))


def test_greedy_text_after_prefix_reuse_is_that_of_the_prompt_computed_whole(model: Any) -> None:
    for review in REVIEWS:
        prompt = f"{INSTRUCTION}{review}\nThe guest was"
        expected = alone(model, prompt, max_tokens=8)
        stream = model.generate(prompt, max_tokens=8, cache_scope="reuse")
        require_same_but_for_a_near_tie(expected, [token.id for token in stream])
    assert stream.stats.cached_tokens > 30


def test_greedy_text_of_a_prompt_in_chunks_is_that_of_the_prompt_in_one(smollm_path: Path, bare: BareLlama) -> None:
    prompt = (INSTRUCTION + " ".join(REVIEWS)) * 3
    with load_model(smollm_path, context_length=512, threads=2, batch_size=16) as chunked:
        ids = chunked.tokenizer.encode(prompt)
        found = list(chunked.generate(ids, max_tokens=12, ignore_eos=True, logprobs=2))
    assert len(ids) > 8 * 16
    require_same_but_for_a_near_tie(found, bare.continuation(ids, 12))


def test_logits_stay_within_a_bound_whatever_the_batch(model: Any, bare: BareLlama) -> None:
    prompts = [f"{INSTRUCTION}{review}\nThe guest was" for review in REVIEWS * 4]
    together = list(model.classify(prompts, return_logits=True, cache_scope="logits"))
    assert model.stats().last.cached_tokens > 30
    for prompt, classification in zip(prompts[:4], together, strict=False):
        expected = bare.logprobs(model.tokenizer.encode(prompt))
        logits = np.asarray(classification.logits, dtype=np.float64)
        assert logits.shape == expected.shape
        found = logits - np.logaddexp.reduce(logits)
        assert np.abs(found - expected).max() < LOGIT_BOUND * np.ptp(expected)


def test_labels_are_scored_as_llama_cpp_scores_them(model: Any, bare: BareLlama) -> None:
    labels = [" content", " not content", " very content", " not", " disappointed."]
    prompts = [f"{INSTRUCTION}{review}\nThe guest was" for review in REVIEWS]
    for prompt, found in zip(prompts, model.classify(prompts, labels=labels), strict=True):
        assert found.error is None
        for label in labels:
            tokens, total = model.tokenizer.encode(prompt), 0.0
            for token in model.tokenizer.encode(label, add_special=False):
                total += bare.logprobs(tokens)[token]
                tokens.append(token)
            assert found.logprobs[label] == pytest.approx(total, abs=TIE)
        assert sum(found.probabilities.values()) == pytest.approx(1)


def test_the_likeliest_token_is_that_of_greedy_text(model: Any) -> None:
    for prompt, found in zip(PROMPTS, model.classify(PROMPTS, cache_scope="likeliest"), strict=True):
        require_same_but_for_a_near_tie(alone(model, prompt, max_tokens=1), [found.token.id])


def test_the_second_turn_of_a_chat_pays_for_its_new_tokens_alone(model: Any) -> None:
    turns = [Message("user", "Name a colour."), Message("assistant", ""), Message("user", "Name another one.")]
    first = model.chat(turns[:1], max_tokens=30, cache_scope="chat")
    turns[1] = Message("assistant", first.text())
    second = model.chat(turns, max_tokens=5, cache_scope="chat")
    second.text()
    new = second.stats.prompt_tokens - second.stats.cached_tokens
    # The reply's end token was sampled, not fed; the template adds a line break, two headers and the question.
    assert new <= 16
    assert second.stats.cached_tokens >= first.stats.prompt_tokens


def test_sliding_windows_are_cut_and_copied_too(gemma_path: Path) -> None:
    with load_model(gemma_path, context_length=1024, threads=2, parallel=4) as gemma:
        long = INSTRUCTION * 16  # more than the window of 512
        prompts = [f"{long}{review}\nThe guest was" for review in REVIEWS]
        expected = list(gemma.generate(prompts[0], max_tokens=6, logprobs=2, cache_scope="alone"))
        found = collected(gemma.batch_generate(prompts, max_tokens=6, cache_scope="batch"))  # type: ignore[attr-defined]
        assert gemma.stats().cached_tokens > 2 * 512  # type: ignore[attr-defined]
        require_same_but_for_a_near_tie(expected, found[0])


def test_a_label_of_a_vocabulary_that_adds_spaces_is_scored_as_it_is_written(gemma_path: Path) -> None:
    with load_model(gemma_path, context_length=256, threads=2) as gemma:
        (found,) = gemma.classify(["The sky is"], labels=[" blue", "blue", " blues"])  # type: ignore[attr-defined]
        assert found.label == " blue"
        assert found.logprobs[" blue"] > found.logprobs["blue"] + 2


def test_a_chat_that_outgrows_its_slot_takes_its_history_along(smollm_path: Path) -> None:
    with load_model(smollm_path, context_length=4096, parallel=2, threads=2) as model:
        history = model.tokenizer.encode(INSTRUCTION * 6)
        first = list(model.generate(history, max_tokens=4, ignore_eos=True))
        before = model.stats().memory.active_bytes  # type: ignore[attr-defined]
        longer = [*history, *(token.id for token in first), *model.tokenizer.encode(REVIEWS[0])]
        stream = model.generate(longer, max_tokens=1500, logprobs=2)
        found = [next(stream) for _ in range(4)]
        stream.close()
        stats = stream.stats
        assert stats is not None
        assert stats.cached_tokens >= len(history)
        assert model.stats().memory.active_bytes > before  # type: ignore[attr-defined]
        expected = list(model.generate(longer, max_tokens=4, logprobs=2, cache_scope="alone"))
        require_same_but_for_a_near_tie(expected, [token.id for token in found])


def test_streams_go_on_while_llama_cpp_makes_room_for_others(smollm_path: Path) -> None:
    with load_model(smollm_path, context_length=4096, parallel=4, threads=2) as model:
        expected = [token.id for token in model.generate(PROMPTS[0], max_tokens=60, ignore_eos=True)]
        running = model.generate(PROMPTS[0], max_tokens=60, ignore_eos=True, cache_scope="running")
        first = next(running)
        others = [model.generate(prompt, max_tokens=2000, stop_tokens=range(1000)) for prompt in PROMPTS[1:4]]
        found = [first.id, *[token.id for token in running]]
        assert all(next(other) for other in others)
        assert found[:8] == expected[:8]
        assert len(found) == len(expected)


def test_memory_counts_the_weights_and_the_slots(smollm_path: Path) -> None:
    with load_model(smollm_path, context_length=256, parallel=4) as model:
        before = model.stats().memory  # type: ignore[attr-defined]
        collected(model.batch_generate(PROMPTS, max_tokens=2))  # type: ignore[attr-defined]
        after = model.stats().memory  # type: ignore[attr-defined]
    assert before.active_bytes > model.info().size_bytes * 0.9
    assert not before.measured
    assert after.active_bytes - before.active_bytes == 3 * 256 * 23040
    assert after.peak_bytes >= after.active_bytes
