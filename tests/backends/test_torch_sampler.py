"""The PyTorch sampler: each filter keeps what its definition keeps, and draws as often as the probabilities say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import sampling_oracle as oracle
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.options import GenerateOptions

torch = pytest.importorskip("torch")

from inference_rocm.sampler import Sampler, uniform  # noqa: E402 - after torch is known to be there

LOGITS = st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=60, unique=True)


def drawn(options: GenerateOptions, logits: Sequence[float], *, draws: int = 1, seed: int = 0) -> list[int]:
    sampler = Sampler(options, seed, [])
    return [sampler.sample(torch.tensor(logits), position) for position in range(draws)]


@settings(deadline=None)
@given(
    LOGITS,
    st.integers(0, 8),
    st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]),
    st.sampled_from([0.0, 0.05, 0.5, 1.0]),
)
def test_only_tokens_that_the_filters_keep_are_drawn(logits: list[float], k: int, p: float, minimum: float) -> None:
    options = GenerateOptions(temperature=100.0, top_k=k, top_p=p, min_p=minimum)
    assert set(drawn(options, logits, draws=40)) <= set(oracle.kept(np.array(logits), options, slack=1e-5))


def test_a_nucleus_larger_than_what_is_sorted_first_is_whole() -> None:
    options = GenerateOptions(temperature=1.0, top_p=0.99)
    found = set(drawn(options, [0.0] * 5000, draws=4000))
    assert len(found) > 2000  # not the first few hundred alone
    assert max(found) > 4000


@pytest.mark.parametrize("options", [GenerateOptions(temperature=0.7), GenerateOptions(temperature=1.5, top_k=3)])
def test_tokens_are_drawn_as_often_as_their_probabilities_say(options: GenerateOptions) -> None:
    logits = np.array([1.0, 0.0, 2.0, -1.0, 1.5], np.float32)
    counts = np.bincount(drawn(options, logits.tolist(), draws=6000), minlength=5)
    assert oracle.surprise(counts, oracle.distribution(logits.tolist(), options)) < 4


def test_penalties_and_biases_come_before_the_filters() -> None:
    def greedy(prompt: Sequence[int] = (), **options: Any) -> int:
        return Sampler(GenerateOptions(**options), 0, list(prompt)).sample(torch.tensor([1.0, 0.9, -0.5]), 0)

    assert greedy() == 0
    assert greedy(logit_bias={2: 5.0}) == 2
    assert greedy(logit_bias={0: float("-inf")}) == 1
    assert greedy([0], repeat_penalty=1.5) == 1
    assert greedy([0], presence_penalty=0.5) == 1
    assert greedy([0, 0, 1], frequency_penalty=0.2) == 1
    assert greedy([0, 1, 1], repeat_penalty=1.5, repeat_window=2) == 0


def test_the_window_slides_over_what_was_drawn() -> None:
    sampler = Sampler(GenerateOptions(presence_penalty=5.0, repeat_window=2), 0, [])
    assert [sampler.sample(torch.tensor([3.0, 2.0, 1.0]), place) for place in range(6)] == [0, 1, 2, 0, 1, 2]


def test_the_random_number_hangs_on_seed_and_position_alone() -> None:
    numbers = np.array([[uniform(seed, position) for position in range(500)] for seed in range(20)])
    assert ((numbers >= 0) & (numbers < 1)).all()
    assert len(np.unique(numbers)) == numbers.size
    assert numbers.mean() == pytest.approx(0.5, abs=0.01)
    assert abs(np.corrcoef(numbers[0], numbers[1])[0, 1]) < 0.15
    assert uniform(3, 7) == uniform(3, 7)
