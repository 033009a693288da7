"""The MLX sampler: draws as often as the definition says, row by row, on the device, without waiting for it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import pytest
import sampling_oracle as oracle
from hypothesis import example, given, settings
from hypothesis import strategies as st

from inference.options import GenerateOptions

mx = pytest.importorskip("mlx.core")

from inference_mlx.random import key, log_times, random_words  # noqa: E402 - after mlx is known to be there
from inference_mlx.sampler import Sampler, sample  # noqa: E402

GREEDY = GenerateOptions()
EXACT = st.integers(-80, 80).map(lambda number: number / 8)
"""Logits with many equal ones, whose differences round on no device."""
ALL: dict[str, Any] = {
    "temperature": 0.8,
    "top_k": 20,
    "top_p": 0.9,
    "min_p": 0.05,
    "repeat_penalty": 1.2,
    "presence_penalty": 0.3,
    "frequency_penalty": 0.1,
    "logit_bias": {1: 1.0, 3: -math.inf},
}


@pytest.fixture(scope="module", autouse=True)
def on_the_cpu() -> Iterator[None]:
    with mx.stream(mx.cpu):
        yield


@st.composite
def some_options(draw: st.DrawFn, vocabulary: int = 8) -> GenerateOptions:
    return GenerateOptions(
        temperature=draw(st.sampled_from([0.0, 0.3, 1.0, 30.0])),
        top_k=draw(st.sampled_from([0, 1, 2, 3, vocabulary, 1000])),
        top_p=draw(st.sampled_from([0.0, 1e-46, 0.1, 0.5, 0.9, 1.0])),
        min_p=draw(st.sampled_from([0.0, 0.05, 0.5, 1.0])),
        repeat_penalty=draw(st.sampled_from([0.0, 0.7, 1.0, 1.5])),
        repeat_window=draw(st.sampled_from([0, 1, 2, 5, 2**31 - 1])),
        presence_penalty=draw(st.sampled_from([0.0, 0.0, 0.5, -0.5])),
        frequency_penalty=draw(st.sampled_from([0.0, 0.0, 0.25, -0.25])),
        logit_bias=draw(st.dictionaries(st.integers(0, vocabulary - 1), st.sampled_from([-math.inf, 0.5]), max_size=3)),
    )


@st.composite
def some_rows(draw: st.DrawFn) -> tuple[list[list[float]], list[tuple[GenerateOptions, int, list[int]]]]:
    """Logits, and what their samplers are made of."""
    vocabulary = draw(st.integers(4, 9))
    tokens = st.integers(0, vocabulary - 1)
    logits = st.lists(EXACT, min_size=vocabulary, max_size=vocabulary)
    made_of = st.tuples(some_options(4), st.integers(0, 3), st.lists(tokens, max_size=6))
    rows = draw(st.lists(st.tuples(logits, made_of), min_size=2, max_size=5))
    return [row for row, _ in rows], [sampler for _, sampler in rows]


def read(tokens: Any) -> list[int]:
    return cast("list[int]", tokens.tolist())


def drawn(options: GenerateOptions, logits: Any, *, draws: int = 1, seed: int = 0) -> list[int]:
    """Tokens for the positions from 0, all drawn from the same logits, in one batch."""
    rows = mx.broadcast_to(mx.array(logits), (draws, len(logits)))
    return read(sample(rows, [Sampler(options, seed, [])] * draws, range(draws)))


def continued(
    logits: Sequence[Sequence[float]], rows: Sequence[tuple[GenerateOptions, int, Sequence[int]]], steps: int = 3
) -> list[list[int]]:
    """What each row draws, step after step from the same logits. Nothing is read before all is launched."""
    samplers = [Sampler(*row) for row in rows]
    ahead = [sample(mx.array(logits), samplers, [step + row for row in range(len(rows))]) for step in range(steps)]
    return [list(row) for row in zip(*map(read, ahead), strict=True)]


# Which tokens can be drawn --------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(EXACT, min_size=2, max_size=40), some_options(2))
@example([0.0] * 9, GenerateOptions(temperature=1.0, top_k=4))
@example([0.0] * 9, GenerateOptions(temperature=1.0, top_p=0.4))
def test_exactly_what_the_filters_keep_is_drawn(logits: list[float], options: GenerateOptions) -> None:
    # So warm that what is kept is drawn about equally often.
    options = GenerateOptions.merged(options, {"temperature": 1e5, "repeat_window": 0})
    if sum(bias == -math.inf for bias in options.logit_bias.values()) == len(logits):
        return  # the engine refuses this
    values = oracle.adjusted(logits, options)
    found = set(drawn(options, logits, draws=600))
    assert found <= set(oracle.kept(values, options, slack=1e-5))
    assert found >= {token for token in oracle.kept(values, options, slack=-1e-5) if values[token] > -math.inf}


@pytest.mark.parametrize("options", [{"top_k": 3}, {"top_p": 0.3}, {"top_k": 6, "top_p": 0.5}])
def test_of_equal_logits_as_many_are_kept_as_were_asked_for_and_those_of_the_lowest_ids(
    options: dict[str, Any],
) -> None:
    assert set(drawn(GenerateOptions(temperature=1.0, **options), [1.0] * 10, draws=200)) == {0, 1, 2}


@pytest.mark.parametrize("vocabulary", [1023, 1025, 5000])
@pytest.mark.parametrize("k", [2, 256, 300])
def test_the_top_of_a_large_vocabulary_is_whole_wherever_it_lies(vocabulary: int, k: int) -> None:
    top = np.random.default_rng(k).permutation(vocabulary)[:k]
    logits = np.full(vocabulary, -3.0, np.float32)
    logits[top] = 4.0
    found = set(drawn(GenerateOptions(temperature=1.0, top_k=k), logits, draws=k * 12))
    assert found == set(top.tolist())


def test_a_nucleus_of_a_large_vocabulary_is_summed_exactly_enough() -> None:
    """One token has nearly all, and the rest each so little that float32 would not add it to that."""
    size = 40_000
    logits = np.full(size, math.log(4e-8), np.float32)
    logits[7] = 0.0  # 0.9984 of all
    values = oracle.adjusted(logits.tolist(), GREEDY)
    for top_p in (0.999, 0.9995):
        options = GenerateOptions(temperature=1e5, top_p=top_p)
        expected = max(token for token in oracle.kept(values, options) if token != 7)
        assert max(drawn(options, logits, draws=150)) == pytest.approx(expected, rel=0.06)


def test_greedy_and_the_top_one_take_the_lowest_id_of_the_likeliest() -> None:
    logits = [-1.0, -0.0, 0.0, -0.0]
    cases: list[dict[str, Any]] = [{}, {"temperature": 0.7, "top_k": 1}, {"temperature": 0.7, "min_p": 1.0, "top_k": 1}]
    for case in cases:
        assert drawn(GenerateOptions(**case), logits, draws=20) == [1] * 20
    assert drawn(GenerateOptions(temperature=1e-5), [1.0, 1.001, 0.9], draws=20) == [1] * 20


@pytest.mark.parametrize("case", [{}, {"top_k": 3}, {"top_p": 0.9}, {"min_p": 0.1}, {"top_k": 3, "top_p": 0.5}])
def test_a_forbidden_token_is_never_drawn_even_if_no_other_is_left_but_one(case: dict[str, Any]) -> None:
    options = GenerateOptions(temperature=1e5, logit_bias={0: -math.inf, 1: -math.inf}, **case)
    assert set(drawn(options, [9.0, 3.0, 1.0, -math.inf, -math.inf], draws=300)) == {2}


@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("case", [{}, {"top_k": 2}, {"top_p": 0.5}, {"min_p": 0.5}, {"repeat_penalty": 2.0}])
def test_logits_that_are_not_finite_give_some_token_of_the_vocabulary(bad: float, case: dict[str, Any]) -> None:
    for temperature in (0.0, 1.0):
        options = GenerateOptions(temperature=temperature, **case)
        for logits in ([bad] * 2000, [bad, *[1.0] * 1999]):
            rows = [Sampler(options, 0, [0])] * 2
            assert all(0 <= token < 2000 for token in read(sample(mx.array([logits] * 2), rows, [1, 2])))


# How often they are drawn ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "case",
    [
        {"temperature": 0.7},
        {"temperature": 4.0},
        {"temperature": 1.5, "top_k": 5},
        {"temperature": 1.0, "top_p": 0.7},
        {"temperature": 1.3, "min_p": 0.2},
        {"temperature": 0.9, "top_k": 9, "top_p": 0.9, "min_p": 0.1},
        {"temperature": 1.1, "logit_bias": {2: 2.0, 3: -math.inf}, "repeat_penalty": 1.4, "frequency_penalty": 0.3},
    ],
)
def test_tokens_are_drawn_as_often_as_their_probabilities_say(case: dict[str, Any]) -> None:
    logits = (np.random.default_rng(5).normal(size=16) * 2).astype(np.float32)
    prompt, options = [1, 4, 4, 6], GenerateOptions(**case)
    draws = 20_000
    samplers = [Sampler(options, seed, prompt) for seed in range(100)]
    batch = mx.broadcast_to(mx.array(logits), (100, 16))
    counts = np.zeros(16, int)
    for position in range(draws // 100):
        for sampler in samplers:
            sampler.window, sampler.held = Sampler(options, 0, prompt).window, len(prompt)
        np.add.at(counts, np.array(sample(batch, samplers, [position] * 100)), 1)
    assert oracle.surprise(counts, oracle.distribution(logits.tolist(), options, prompt)) < 4


def test_the_thousands_of_a_large_vocabulary_are_drawn_as_often_as_their_probabilities_say() -> None:
    logits = (np.random.default_rng(6).normal(size=8192) * 1.5).astype(np.float32)
    likely = oracle.distribution(logits.tolist(), GenerateOptions(temperature=1.0))
    by_share = np.argsort(np.argsort(-likely)) // 256  # the likeliest 256 tokens, the next 256, ...
    counts = np.bincount(by_share[drawn(GenerateOptions(temperature=1.0), logits, draws=4000)], minlength=32)
    assert oracle.surprise(counts, np.bincount(by_share, likely)) < 4


def test_the_times_of_the_race_are_exponential_and_finite_at_both_ends() -> None:
    words = np.array([0, 1, 2, 1000, 2**20, 2**24 - 1, 2**24, 2**24 + 1, 2**30, 2**31, 2**32 - 2**14, 2**32 - 1])
    times = np.array(log_times(mx.array(words, mx.uint32)), np.float64)
    exact = np.log(-np.log1p(-(words + 0.5) / 2.0**32))
    assert np.isfinite(times).all()
    assert np.diff(times).min() >= 0
    assert times[:-1] == pytest.approx(exact[:-1], abs=2e-5)
    assert times[-1] == pytest.approx(math.log(24 * math.log(2)))


# What a draw hangs on -------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=100)
@given(some_rows(), st.randoms(use_true_random=False))
def test_a_row_draws_the_same_alone_and_among_any_others(rows: Any, random: Any) -> None:
    logits, made_of = rows
    together = continued(logits, made_of)
    order = random.sample(range(len(made_of)), len(made_of))
    samplers = [Sampler(*made_of[row]) for row in order]
    for step in range(3):
        tokens = sample(mx.array([logits[row] for row in order]), samplers, [step + row for row in order])
        assert read(tokens) == [together[row][step] for row in order]
    for row in order:
        alone = Sampler(*made_of[row])
        steps = [sample(mx.array([logits[row]]), [alone], [step + row]) for step in range(3)]
        assert [token.item() for token in steps] == together[row]


def test_a_row_of_a_large_vocabulary_draws_the_same_alone_and_among_others_that_keep_more() -> None:
    cases: list[dict[str, Any]] = [
        {"top_k": 5, "top_p": 0.9},
        {"top_k": 290, "top_p": 0.9},
        {"top_k": 2900, "top_p": 0.8},
        {"top_k": 1},
    ]
    cases += [{"top_p": 0.5}, {"top_p": 0.9, "min_p": 0.2}, {"top_k": 99, "min_p": 0.3}, {"min_p": 0.1}, {}]
    logits = np.random.default_rng(8).normal(size=(len(cases), 3001)).astype(np.float16)  # with many equal ones
    samplers = [Sampler(GenerateOptions(temperature=2.0, **case), 3, []) for case in cases]
    for position in range(150):
        together = read(sample(mx.array(logits), samplers, [position] * len(cases)))
        for row, sampler in enumerate(samplers):
            assert sample(mx.array(logits[row : row + 1]), [sampler], [position]).item() == together[row]


@pytest.mark.parametrize("case", [{"top_k": 40}, {"top_p": 0.6}, {"min_p": 0.3}, {"top_k": 90, "top_p": 0.7}])
def test_a_token_that_the_filters_keep_is_drawn_whenever_it_is_drawn_without_them(case: dict[str, Any]) -> None:
    logits = np.random.default_rng(9).normal(size=200).astype(np.float32)
    free, options = GenerateOptions(temperature=0.9), GenerateOptions(temperature=0.9, **case)
    keeps = oracle.kept(oracle.adjusted(logits.tolist(), options), options, slack=-1e-5)
    pairs = list(zip(drawn(free, logits, draws=300), drawn(options, logits, draws=300), strict=True))
    assert any(token not in keeps for token, _ in pairs)
    assert all(filtered == token for token, filtered in pairs if token in keeps)


def test_the_same_seed_draws_the_same_tokens_and_another_seed_others() -> None:
    logits = np.random.default_rng(1).normal(size=500).astype(np.float32)
    cases: list[dict[str, Any]] = [{}, {"top_k": 100}, {"top_p": 0.95}]
    for case in cases:
        options = GenerateOptions(temperature=1.0, **case)
        first, again, other = (drawn(options, logits, draws=50, seed=seed) for seed in (7, 7, 8))
        assert first == again
        assert sum(one == two for one, two in zip(first, other, strict=True)) < 20
        assert len(set(first)) > 20  # another position, another token


def test_random_numbers_hang_on_seed_position_and_token_alone() -> None:
    keys = [key(seed, position) for seed in (0, 1, 2**32 - 2) for position in range(300)]
    assert len(set(keys)) == len(keys)
    assert all(0 <= word < 2**32 for words in keys for word in words)
    words = np.array(random_words(keys, 101))
    assert words.shape == (900, 101)
    assert (np.array(random_words(keys[5:6], 101)) == words[5]).all()
    assert len(np.unique(words)) > words.size - 10
    assert (words / 2**32).mean() == pytest.approx(0.5, abs=0.005)
    between = np.corrcoef(words[:100])
    assert np.abs(between - np.eye(100)).max() < 0.5


# Penalties and biases -------------------------------------------------------------------------------------------------


def test_penalties_and_biases_come_before_the_filters() -> None:
    def greedy(prompt: Sequence[int] = (), **options: Any) -> Any:
        return sample(mx.array([[1.0, 0.9, -0.5]]), [Sampler(GenerateOptions(**options), 0, prompt)], [0]).item()

    assert greedy() == 0
    assert greedy(logit_bias={2: 5.0}) == 2
    assert greedy(logit_bias={0: float("-inf")}) == 1
    assert greedy([0], repeat_penalty=1.5) == 1
    assert greedy([0], presence_penalty=0.5) == 1
    assert greedy([0, 0, 1], frequency_penalty=0.2) == 1
    assert greedy([0, 1, 1], repeat_penalty=1.5, repeat_window=2) == 0
    assert greedy([0], presence_penalty=0.5, temperature=1.0, top_k=1) == 1
    assert greedy([0], presence_penalty=0.5, temperature=1.0, min_p=1.0) == 1


def test_the_window_slides_over_what_was_drawn() -> None:
    sampler = Sampler(GenerateOptions(presence_penalty=5.0, repeat_window=2), 0, [])
    tokens = [sample(mx.array([[3.0, 2.0, 1.0]]), [sampler], [place]) for place in range(6)]
    assert [token.item() for token in tokens] == [0, 1, 2, 0, 1, 2]


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.sampled_from([1, 3, 64, 65, 100, 150, 10**9]), st.integers(0, 160)), min_size=1, max_size=3),
    st.integers(0, 1000),
)
def test_each_row_is_penalised_for_its_own_window_however_long(rows: list[tuple[int, int]], seed: int) -> None:
    random = np.random.default_rng(seed)
    logits = random.normal(size=(len(rows), 12)).astype(np.float32)
    prompts = [random.integers(0, 12, length).tolist() for _, length in rows]
    options = [
        GenerateOptions(repeat_penalty=1.01, presence_penalty=0.2, frequency_penalty=0.05, repeat_window=window)
        for window, _ in rows
    ]
    found = continued(logits.tolist(), list(zip(options, range(3), prompts, strict=False)), steps=20)
    for row, tokens in enumerate(found):
        for step, token in enumerate(tokens):
            values = oracle.adjusted(logits[row].tolist(), options[row], [*prompts[row], *tokens[:step]])
            assert values[token] >= values.max() - 1e-4


# On the device --------------------------------------------------------------------------------------------------------


def test_nothing_is_computed_before_it_is_read() -> None:
    logits = mx.random.normal((4, 300_000))
    mx.eval(logits)
    samplers = [
        Sampler(GenerateOptions(**{**ALL, "top_k": top_k}), row, [1, 2]) for row, top_k in enumerate((0, 0, 5, 9))
    ]
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    steps = [sample(logits, samplers, [position] * 4) for position in range(3)]
    assert mx.get_peak_memory() - before < 1_000_000
    assert all(0 <= token < 300_000 for tokens in steps for token in read(tokens))


def test_plain_rows_take_the_likeliest_of_the_logits_as_they_are() -> None:
    assert Sampler(GREEDY, 0, [1]).plain
    assert Sampler(GenerateOptions(top_k=5, repeat_penalty=1.0), 0, [1]).plain
    assert Sampler(GenerateOptions(presence_penalty=1.0, repeat_window=0), 0, [1]).plain
    cases: list[dict[str, Any]] = [{"temperature": 0.1}, {"logit_bias": {1: 1.0}}, {"repeat_penalty": 1.1}]
    for case in cases:
        assert not Sampler(GenerateOptions(**case), 0, [1]).plain
    logits = mx.random.normal((3, 50))
    tokens = sample(logits, [Sampler(GREEDY, 0, [])] * 3, [0] * 3)
    assert tokens.tolist() == mx.argmax(logits, axis=-1).tolist()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_short_floats_draw_what_their_values_in_float32_draw(dtype: str) -> None:
    logits = mx.random.normal((5, 400)).astype(getattr(mx, dtype))
    samplers = [Sampler(GenerateOptions(**ALL), seed, [3, 5]) for seed in range(5)]
    again = [Sampler(GenerateOptions(**ALL), seed, [3, 5]) for seed in range(5)]
    assert sample(logits, samplers, [0] * 5).tolist() == sample(logits.astype(mx.float32), again, [0] * 5).tolist()


@pytest.mark.metal
def test_an_apple_gpu_draws_what_the_cpu_draws() -> None:
    logits = np.random.default_rng(3).normal(size=(4, 50_001)).astype(np.float16)
    cases: list[dict[str, Any]] = [
        {"top_k": 40},
        {"top_p": 0.9},
        {"min_p": 0.01},
        {"top_k": 1000, "top_p": 0.8, "repeat_penalty": 1.3},
    ]
    found = []
    for device in (mx.cpu, mx.gpu):
        with mx.stream(device):
            samplers = [Sampler(GenerateOptions(temperature=0.9, **case), 5, [1, 2]) for case in cases]
            steps = [sample(mx.array(logits), samplers, [position] * 4) for position in range(50)]
            found.append(np.array([tokens.tolist() for tokens in steps]))
    assert (found[0] == found[1]).mean() > 0.98  # a logarithm's last digit may decide a close race
