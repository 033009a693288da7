"""One tenant learns nothing of another: what a call costs and what it answers hang on its own scope alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from fakes import FakeRunner, continuation, fake_model
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.engine.model import EngineModel
from inference.types import GenerateStats

prompts = st.lists(st.integers(0, 3), min_size=1, max_size=60)
"""Few tokens, so that many begin alike."""


def cost(model: EngineModel, runner: FakeRunner, prompt: Sequence[int], scope: str) -> tuple[int, ...]:
    """All that a caller could measure: tokens that were found, tokens that were computed, steps."""
    runner.steps.clear()
    computed = runner.computed
    stream = model.generate(prompt, max_tokens=3, cache_scope=scope)
    assert [token.id for token in stream] == continuation(prompt, 3)
    stats = stream.stats
    assert isinstance(stats, GenerateStats)
    return stats.cached_tokens, stats.computed_tokens, runner.computed - computed, len(runner.steps)


@settings(max_examples=60, deadline=None)
@given(
    others=st.lists(prompts, max_size=6),
    mine=st.lists(prompts, min_size=1, max_size=4),
    lookahead=st.sampled_from([0, 1]),
    can_fork=st.booleans(),
    can_trim=st.booleans(),
)
def test_what_a_call_costs_tells_nothing_of_other_scopes(
    others: list[list[int]], mine: list[list[int]], lookahead: int, can_fork: bool, can_trim: bool
) -> None:
    """The same calls after another tenant's, and without them. There are slots for all: whether an idle slot is left is
    no secret of anybody's."""

    def costs(before: list[list[int]]) -> list[tuple[int, ...]]:
        runner = FakeRunner(slots=16, lookahead=lookahead, can_fork=can_fork and can_trim, can_trim=can_trim)
        with fake_model(runner) as model:
            for prompt in before:
                cost(model, runner, prompt, "theirs")
            return [cost(model, runner, prompt, "mine") for prompt in mine]

    assert costs(others + mine) == costs([])


def test_a_first_call_costs_what_it_does_on_a_fresh_model_though_others_asked_the_same_at_once() -> None:
    runner = FakeRunner(slots=4)
    prompt = list(range(40))
    with fake_model(runner) as model:
        streams = [model.generate(prompt, max_tokens=2, cache_scope=scope) for scope in ("a", "b", "c")]
        for stream in streams:
            stream.text()
            assert stream.stats is not None
            assert (stream.stats.cached_tokens, stream.stats.computed_tokens) == (0, 40)


BACKENDS = [{"backend": "llama_cpp"}, {"backend": "torch"}, {"backend": "metal", "device": "cpu"}]


@pytest.mark.real_model
@pytest.mark.parametrize("how", BACKENDS, ids=[how["backend"] for how in BACKENDS])
def test_nothing_of_a_closed_stream_is_read_by_a_later_one(how: dict[str, Any], tmp_path: Any) -> None:
    from hostile.tiny_files import tiny_file

    from inference import load_model

    path = tmp_path / "model.gguf"
    path.write_bytes(tiny_file("llama"))
    secret, mine = [7 + n % 200 for n in range(90)], [9, 8, 7, 6, 5]

    def answers(model: Any) -> tuple[object, ...]:
        (found,) = model.classify([mine], return_logits=True, cache_scope="mine")
        stream = model.generate(mine, max_tokens=6, ignore_eos=True, logprobs=3, cache_scope="mine")
        return found.logits.tobytes(), found.token, [(token.id, token.logprob, token.top_logprobs) for token in stream]

    with load_model(path, parallel=1, context_length=256, **how) as model:
        fresh = answers(model)
    with load_model(path, parallel=1, context_length=256, **how) as model:
        with model.generate(secret, max_tokens=50, ignore_eos=True, cache_scope="theirs") as stream:
            next(stream)
        model.generate(secret[::-1], max_tokens=20, ignore_eos=True, cache_scope="theirs").text()
        assert answers(model) == fresh, "to the last bit"
