"""The sampler's kernels: what they draw is what the definition says, row by row, whatever the blocks and the batch."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import sampling_oracle as oracle
from hypothesis import example, given, settings
from hypothesis import strategies as st

from inference.engine.random_words import random_word
from inference.options import GenerateOptions

torch = pytest.importorskip("torch")
triton = pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("Triton compiles for the GPU here", allow_module_level=True)

import triton.language as tl  # noqa: E402 - after triton is known to be there
from gpu_sampling import (  # noqa: E402
    CONTEXT,
    GREEDY,
    Row,
    Steps,
    arrivals,
    kept,
    one,
    require_first_to_arrive,
    require_kept,
)
from inference_rocm.gpu.device import INTERPRETER, Device  # noqa: E402
from inference_rocm.gpu.kernels import race  # noqa: E402
from inference_rocm.gpu.sampler import Blocks, Kind, Sampler, blocks_of, kind_of, specimens  # noqa: E402
from tree_sums import Order, added_in  # noqa: E402

EXACT = st.integers(-80, 80).map(lambda number: number / 8)
"""Logits with many equal ones, whose differences round on no device."""


def of(size: int, vocabulary: int) -> Blocks:
    """Blocks so small that there are several."""
    return Blocks(size, -(-vocabulary // size), part=size // 2, span=8, listed=8, digit=8)


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


# Which tokens can be drawn --------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(st.lists(EXACT, min_size=2, max_size=12), some_options(2), st.sampled_from([4, 16]))
@example([0.0] * 9, GenerateOptions(temperature=1.0, top_k=4), 4)
@example([0.0] * 9, GenerateOptions(temperature=1.0, top_p=0.4), 4)
@example([0.0] * 9, GenerateOptions(temperature=1.0, top_k=5, top_p=0.5), 4)
@example([-0.0, 0.0, -0.0, 0.0, 0.0, -0.0], GenerateOptions(temperature=1.0, top_k=3), 4)
@example([0.0, -0.0, 0.0, -0.0, -0.0, 0.0], GenerateOptions(temperature=1.0, top_k=3), 16)
@example([9.0, 3.0, 1.0, -math.inf, -math.inf], GenerateOptions(temperature=1.0, top_k=4, top_p=0.5), 4)
def test_top_k_and_top_p_keep_what_their_definition_keeps(
    logits: list[float], options: GenerateOptions, size: int
) -> None:
    options = replace(options, temperature=1.0, top_k=max(options.top_k, 2), min_p=0.0, repeat_window=0)
    if sum(bias == -math.inf for bias in options.logit_bias.values()) == len(logits):
        return  # the engine refuses this
    require_kept([(logits, options, 0, ())], INTERPRETER, of(size, len(logits)))


@pytest.mark.parametrize("case", [{"top_k": 290}, {"top_p": 0.7}, {"top_k": 290, "top_p": 0.9}, {"top_k": 2999}])
def test_the_cut_of_a_large_vocabulary_is_exact_among_many_equal_logits(case: dict[str, Any]) -> None:
    logits = np.random.default_rng(8).normal(size=3001).astype(np.float16).astype(np.float32)
    options = GenerateOptions(temperature=1.0, **case)
    steps = Steps([(logits, options, 0, ())], blocks=Blocks(1024, 3, part=128, span=64, listed=256, digit=4))
    steps.step()
    assert kept(steps) == set(oracle.kept(oracle.adjusted(logits.tolist(), options), options))


@pytest.mark.parametrize("options", [{"top_k": 3}, {"top_p": 0.3}, {"top_k": 6, "top_p": 0.5}])
def test_of_equal_logits_as_many_are_kept_as_were_asked_for_and_those_of_the_lowest_ids(
    options: dict[str, Any],
) -> None:
    steps = Steps([([1.0] * 10, GenerateOptions(temperature=1.0, **options), 0, ())], blocks=of(4, 10))
    steps.step()
    assert kept(steps) == {0, 1, 2}


@pytest.mark.parametrize("top_p", [0.999, 0.9995])
def test_a_nucleus_of_a_large_vocabulary_is_summed_exactly_enough(top_p: float) -> None:
    """One token has nearly all, and the rest each so little that float32 would not add it to that."""
    logits = np.full(40_000, math.log(4e-8), np.float32)
    logits[7] = 0.0  # 0.9984 of all
    options = GenerateOptions(temperature=1.0, top_p=top_p)
    steps = Steps([(logits, options, 0, ())], blocks=Blocks(4096, 10, part=1024, span=64, listed=2048, digit=8))
    steps.step()
    expected = len(oracle.kept(oracle.adjusted(logits.tolist(), options), options))
    assert len(kept(steps)) == pytest.approx(expected, rel=0.005)


@st.composite
def cut_where_sums_decide(draw: st.DrawFn) -> tuple[list[float], GenerateOptions]:
    """Logits, and a top-p that is the very share of the tokens in the first of the bins in which they are counted, or
    a last digit beside it, or all but nothing: then what is kept hangs on how sums were rounded."""
    count, seed = draw(st.integers(2, 64)), draw(st.integers(0, 2**32 - 1))
    logits = np.random.default_rng(seed).normal(size=count) * draw(st.sampled_from([1.0, 3.0, 9.0]))
    logits = logits.astype(np.float32)
    gaps = logits.max() - logits
    edge = draw(st.sampled_from(sorted({float(np.floor(2 * gap) + 1) / 2 for gap in gaps})))
    shares = np.exp(-gaps.astype(np.float64))
    share = np.float32(shares[gaps < edge].sum() / shares.sum())
    beside = np.nextafter(share, np.float32(draw(st.sampled_from([0, 1]))))
    below_one = np.float32(1 - 2**-24)
    top_p = float(min(draw(st.sampled_from([share, beside, below_one])), below_one))
    return logits.tolist(), GenerateOptions(temperature=1.0, top_p=top_p, top_k=draw(st.sampled_from([0, 30])))


@settings(deadline=None, max_examples=60)
@given(
    cut_where_sums_decide(),
    st.lists(
        st.builds(Order, each=st.sampled_from([1, 2, 4]), lanes=st.sampled_from([8, 32, 64]), halves=st.booleans()),
        min_size=6,
        max_size=6,
    ),
)
@example(  # sums up to bins that hold nothing fall back by a last digit here
    (
        [8.4, 1.8, 0.6, -0.3, -6.9, -6.0, 8.0, 1.0, -3.6, 8.0, -4.8],
        GenerateOptions(temperature=1.0, top_p=1 - 2**-24),
    ),
    [Order(each=1, lanes=32, halves=False)],
)
def test_top_p_keeps_what_it_should_whatever_order_each_kernel_adds_in(
    case: tuple[list[float], GenerateOptions], orders: list[Order]
) -> None:
    logits, options = case
    with added_in(orders):
        require_kept([(logits, options, 0, ())], INTERPRETER, of(32, len(logits)))


def test_min_p_keeps_what_is_near_enough_to_the_likeliest_of_all_blocks() -> None:
    logits = [0.0, 1.0, 2.0, 3.0, -5.0, -5.0, -5.0, -5.0]
    share = math.exp(-1.5)
    for seed in range(6):
        row = (logits, GenerateOptions(temperature=1e5, min_p=share), seed, ())
        assert Steps([row], blocks=of(4, 8)).step()[0] in (2, 3)


def test_greedy_and_the_top_one_take_the_lowest_id_of_the_likeliest() -> None:
    logits = [-1.0, -2.0, -3.0, -4.0, -1.0, -0.0, 0.0, -0.0, -5.0, 0.0]
    cases: list[dict[str, Any]] = [{}, {"temperature": 0.7, "top_k": 1}, {"temperature": 0.7, "min_p": 1.0, "top_k": 1}]
    for case in cases:
        for kind in Kind:
            for size in (4, 16):
                assert Steps([(logits, GenerateOptions(**case), 3, ())], blocks=of(size, 10)).step(kind) == [5]
    for seed in range(5):
        row = ([1.0, 1.001, 0.9, 0.5, 0.3], GenerateOptions(temperature=1e-5), seed, ())
        assert Steps([row], blocks=of(4, 5)).step() == [1]


@pytest.mark.parametrize("case", [{}, {"top_k": 3}, {"top_p": 0.9}, {"min_p": 0.1}, {"top_k": 3, "top_p": 0.5}])
def test_a_forbidden_token_is_never_drawn_even_if_no_other_is_left_but_one(case: dict[str, Any]) -> None:
    options = GenerateOptions(temperature=1e5, logit_bias={0: -math.inf, 1: -math.inf}, **case)
    rows: list[Row] = [([9.0, 3.0, -math.inf, -math.inf, -math.inf, 1.0], options, seed, ()) for seed in range(2)]
    assert Steps(rows, blocks=of(4, 6)).step() == [5] * 2


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("kind", Kind)
def test_a_row_whose_greatest_logit_is_not_finite_gives_minus_one_and_feeds_a_token_that_exists(kind: Kind) -> None:
    fine = [0.5, 1.0, 0.0, 0.0, 0.0, 0.0]
    rows: list[Row] = [
        (logits, GREEDY if kind is Kind.GREEDY else GenerateOptions(temperature=1e-5, top_k=3, top_p=0.5), 0, ())
        for bad in (math.nan, -math.nan, math.inf, -math.inf)
        for logits in ([bad] * 6, [*fine[:5], bad])
    ]
    steps = Steps(rows, blocks=of(4, 6))
    assert steps.step(kind) == [-1, -1, -1, -1, -1, -1, -1, 1]  # the last one's bad logit only forbids a token
    assert steps.last.tolist() == [0] * 7 + [1]
    assert steps.sampler.history[:, 0].tolist() == [0] * 7 + [1]


# How often they are drawn ---------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.integers(-3000, 3000).map(lambda number: number / 1024), min_size=6, max_size=24),
    st.fixed_dictionaries(
        {"temperature": st.sampled_from([0.5, 30.0, 1e5])},
        optional={
            "top_k": st.sampled_from([5, 1000]),
            "top_p": st.sampled_from([0.8, 0.95]),
            "min_p": st.sampled_from([0.01, 0.1]),
            "repeat_penalty": st.just(1.5),
            "logit_bias": st.dictionaries(st.integers(0, 5), st.sampled_from([-math.inf, 0.5]), max_size=3),
        },
    ),
    st.integers(0, 2**64 - 1),
    st.lists(st.integers(0, 5), max_size=12),
)
def test_the_kept_token_that_arrives_first_is_drawn(
    logits: list[float], case: dict[str, Any], seed: int, before: list[int]
) -> None:
    require_first_to_arrive([(logits, GenerateOptions(**case), seed, before)], INTERPRETER)


@pytest.mark.parametrize("top_k", [0, 30])
def test_all_blocks_take_part_in_one_race(top_k: int) -> None:
    logits = (np.arange(40) / 8 % 2.5).tolist()
    rows: list[Row] = [
        (logits, GenerateOptions(temperature=temperature, top_k=top_k), seed, ())
        for seed, temperature in enumerate([0.2, 0.4, 0.4, 1.0, 1e5, 1e5])
    ]
    expected = [int(np.argmin(arrivals(*row))) for row in rows]
    assert Steps(rows, blocks=of(8, 40)).step() == expected


@pytest.mark.parametrize(
    "case",
    [
        {"temperature": 0.7},
        {"temperature": 4.0},
        {"temperature": 1.5, "top_k": 5},
        {"temperature": 0.9, "top_k": 9, "top_p": 0.9, "min_p": 0.1},
        {"temperature": 1.1, "logit_bias": {2: 2.0, 3: -math.inf}, "repeat_penalty": 1.4, "frequency_penalty": 0.3},
    ],
)
def test_those_who_arrive_first_are_drawn_as_often_as_their_probabilities_say(case: dict[str, Any]) -> None:
    """Of the race that the kernels run: the test before this one compares them with it, draw by draw."""
    logits = (np.random.default_rng(5).normal(size=16) * 2).tolist()
    prompt, options = [1, 4, 4, 6], GenerateOptions(**case)
    counts = np.zeros(16, int)
    for seed in range(3000):
        counts[np.argmin(arrivals(logits, options, seed, prompt))] += 1
    assert oracle.surprise(counts, oracle.distribution(logits, options, prompt)) < 4


@triton.jit
def _all_times(seeds, positions, words, out, draws, BLOCK: tl.constexpr):  # noqa: N803
    place = tl.arange(0, BLOCK)
    for draw in range(draws):
        word = race.random_word(tl.load(seeds + draw), tl.load(positions + draw))
        tl.store(words + draw, word.to(tl.int64, bitcast=True))
        tl.store(out + draw * BLOCK + place, race.log_times(race.random_words(word, 0, BLOCK)))


@triton.jit
def _times_of(words, out, BLOCK: tl.constexpr):  # noqa: N803
    place = tl.arange(0, BLOCK)
    tl.store(out + place, race.log_times(tl.load(words + place).to(tl.uint32)))


def test_tokens_of_a_row_arrive_independently_as_often_first_as_their_probabilities_say() -> None:
    """The kernels' own times for 65,536 tokens: as 4,096 races of sixteen."""
    likely = oracle.distribution(
        (np.random.default_rng(4).normal(size=16) * 1.5).tolist(), replace(GREEDY, temperature=1)
    )
    seeds, positions = torch.tensor([1, 2, 3]), torch.tensor([5, 5, 9], dtype=torch.int32)
    out, words = torch.zeros(3, 65536), torch.zeros(3, dtype=torch.int64)
    _all_times[(1,)](seeds, positions, words, out, 3, 65536)
    winners = np.argmin(out.numpy().reshape(-1, 16) - np.log(likely), axis=1)
    assert oracle.surprise(np.bincount(winners, minlength=16), likely) < 4
    assert np.abs(np.corrcoef(out.numpy()) - np.eye(3)).max() < 0.02


def test_the_random_word_is_the_engines_own() -> None:
    seeds = [0, 1, 2**32 - 2, 2**63, 2**64 - 1]
    positions = [0, 1, 77, 12_000, 131_071]
    stored = torch.tensor([seed - 2**64 if seed >= 2**63 else seed for seed in seeds])
    words = torch.zeros(5, dtype=torch.int64)
    _all_times[(1,)](stored, torch.tensor(positions, dtype=torch.int32), words, torch.zeros(5, 4), 5, 4)
    found = [word % 2**64 for word in words.tolist()]
    assert found == [random_word(seed, position) for seed, position in zip(seeds, positions, strict=True)]


def test_the_times_of_the_race_are_exponential_and_finite_at_both_ends() -> None:
    words = [0, 1, 2, 1000, 2**20, 2**24 - 1, 2**24, 2**24 + 1, 2**30, 2**31, 2**31 + 2**30, 2**32 - 2**20]
    words += [2**32 - 2**14, 2**32 - 1, 2**32 - 1, 2**32 - 1]
    out = torch.zeros(16)
    _times_of[(1,)](torch.tensor(words), out, 16)
    times = out.numpy().astype(np.float64)
    exact = np.log(-np.log1p(-(np.array(words) + 0.5) / 2.0**32))
    assert np.isfinite(times).all()
    assert np.diff(times).min() >= 0
    assert times[:-3] == pytest.approx(exact[:-3], abs=2e-5)
    assert times[-1] == pytest.approx(math.log(24 * math.log(2)))


# What a draw hangs on -------------------------------------------------------------------------------------------------

CASES: list[dict[str, Any]] = [
    {"temperature": 0.8},
    {"temperature": 1.0, "top_k": 5, "top_p": 0.9},
    {},
    {"temperature": 2.0, "top_p": 0.5},
    {"temperature": 0.9, "min_p": 0.2, "repeat_penalty": 1.3},
    {"presence_penalty": 2.0, "repeat_window": 3},
    {"temperature": 1.5, "logit_bias": {3: 1.0, 1: -math.inf}, "top_k": 12},
]


def test_a_row_draws_the_same_alone_and_among_any_others() -> None:
    logits = np.random.default_rng(2).normal(size=(len(CASES), 21)).astype(np.float16)
    rows: list[Row] = [
        (logits[row], GenerateOptions(**case), row // 2, list(range(row))) for row, case in enumerate(CASES)
    ]
    order = [4, 0, 6, 2, 5, 1, 3]
    together = Steps([rows[row] for row in order], blocks=of(32, 21), slots=[7, 3, 0, 1, 2, 8, 4])
    found = [together.step() for _ in range(2)]
    for place, row in enumerate(order):
        alone = Steps([rows[row]], blocks=of(32, 21))
        assert [alone.step()[0] for _ in range(2)] == [tokens[place] for tokens in found]


@pytest.mark.parametrize("case", [{"top_k": 40}, {"top_p": 0.6}, {"min_p": 0.3}, {"top_k": 90, "top_p": 0.7}])
def test_a_token_that_the_filters_keep_is_drawn_whenever_it_is_drawn_without_them(case: dict[str, Any]) -> None:
    logits = np.random.default_rng(9).normal(size=200).astype(np.float32)
    free, options = GenerateOptions(temperature=0.9), GenerateOptions(temperature=0.9, **case)
    keeps = oracle.kept(oracle.adjusted(logits.tolist(), options), options, slack=-1e-5)
    rows: list[list[Row]] = [[(logits, which, seed, ()) for seed in range(10)] for which in (free, options)]
    pairs = list(zip(Steps(rows[0]).step(), Steps(rows[1]).step(), strict=True))
    assert any(token not in keeps for token, _ in pairs)
    assert all(filtered == token for token, filtered in pairs if token in keeps)


def test_the_same_seed_draws_the_same_tokens_and_another_seed_or_position_others() -> None:
    logits = np.random.default_rng(1).normal(size=500).astype(np.float32)
    rows: list[Row] = [(logits, GenerateOptions(temperature=1.0), seed, ()) for seed in (7, 7, 8)]
    steps = Steps(rows)
    first, again, other = zip(*(steps.step() for _ in range(15)), strict=True)
    assert first == again
    assert sum(one == two for one, two in zip(first, other, strict=True)) < 6
    assert len(set(first)) > 8


# Penalties and biases -------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=16)
@given(
    st.lists(EXACT, min_size=9, max_size=9),
    some_options(9),
    st.lists(st.integers(0, 8), max_size=CONTEXT - 1),
    st.sampled_from([4, 16]),
)
def test_logits_are_adjusted_as_the_definition_says(
    logits: list[float], options: GenerateOptions, before: list[int], size: int
) -> None:
    steps = Steps([(logits, options, 0, before)], blocks=of(size, 9))
    given_logits = steps.logits.clone()
    steps.step(Kind.FILTERED)
    expected = oracle.adjusted(logits, options, before)
    assert steps.sampler.workspace.values[0].numpy() == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert torch.equal(steps.logits, given_logits)


def test_a_window_is_counted_whole_however_long() -> None:
    before = np.random.default_rng(3).integers(0, 9, CONTEXT - 1).tolist()
    options = [GenerateOptions(frequency_penalty=0.5, repeat_window=window) for window in (7, 17, 38, 10**9)]
    steps = Steps([([0.0] * 9, each, 0, before) for each in options], blocks=of(4, 9))
    steps.step(Kind.FILTERED)
    for row, each in enumerate(options):
        assert steps.sampler.workspace.values[row].tolist() == oracle.adjusted([0.0] * 9, each, before).tolist()


def test_penalties_and_biases_come_before_the_filters() -> None:
    def greedy(prompt: Sequence[int] = (), **options: Any) -> int:
        return one([1.0, 0.9, -0.5], GenerateOptions(**options), prompt)

    assert greedy() == 0
    assert greedy(logit_bias={2: 5.0}) == 2
    assert greedy(logit_bias={0: float("-inf")}) == 1
    assert greedy([0], repeat_penalty=1.5) == 1
    assert greedy([0, 1, 1], repeat_penalty=1.5, repeat_window=2) == 0
    assert greedy([0], presence_penalty=0.5, temperature=1.0, top_k=1) == 1
    assert greedy([0], presence_penalty=0.5, temperature=1.0, min_p=1.0) == 1


def test_the_window_slides_over_what_was_drawn() -> None:
    steps = Steps([([3.0, 2.0, 1.0], GenerateOptions(presence_penalty=5.0, repeat_window=2), 0, [])])
    assert [steps.step()[0] for _ in range(6)] == [0, 1, 2, 0, 1, 2]


def test_a_slot_that_is_opened_again_forgets_what_was_there() -> None:
    loud = GenerateOptions(presence_penalty=5.0, logit_bias={2: 9.0}, temperature=1.0, top_k=2, top_p=0.5, min_p=0.5)
    steps = Steps([([3.0, 2.0, 1.0], loud, 0, [0, 0])])
    steps.step()
    steps.sampler.open(0, GREEDY, 0, [1, 1, 1])
    assert steps.step() == [0]


@pytest.mark.parametrize("count", [1, 2, 3, 8, 17, 30])
def test_each_of_many_biases_is_found_and_slots_opened_before_keep_theirs_when_room_is_made(count: int) -> None:
    biased = list(np.random.default_rng(count).permutation(31)[:count])
    many = GenerateOptions(logit_bias={int(token): float(place + 1) for place, token in enumerate(biased)})
    few = GenerateOptions(logit_bias={5: 3.0, 2: 1.0})
    steps = Steps([([0.0] * 31, few, 0, ()), ([0.0] * 31, many, 0, ())])
    steps.step(Kind.FILTERED)
    for row, options in enumerate((few, many)):
        expected = oracle.adjusted([0.0] * 31, options)
        assert steps.sampler.workspace.values[row].tolist() == expected.tolist()


# Steps ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", Kind)
def test_nothing_is_written_for_rows_that_only_pad_the_batch(kind: Kind) -> None:
    row = ([0.0, 3.0, 1.0], GREEDY, 0, ())
    steps = Steps([row, row, row], slots=[1, -1, 2])
    before = steps.sampler.history.clone()
    assert steps.step(kind) == [1, -9, 1]
    assert steps.last.tolist() == [-7, 1, 1]
    assert steps.sampler.history[0].tolist() == before[0].tolist()
    assert steps.sampler.history[1:, 0].tolist() == [1, 1]


def test_history_holds_the_end_of_the_prompt_and_what_was_drawn_at_their_positions() -> None:
    options = GenerateOptions(presence_penalty=0.1, repeat_window=3)
    steps = Steps([([0.0, 3.0, 1.0], options, 0, [2, 2, 0, 2, 0])])
    steps.step()
    assert steps.sampler.history[0, 2:6].tolist() == [0, 2, 0, 1]


def test_a_token_that_has_no_place_in_the_context_any_more_is_drawn_and_not_kept() -> None:
    steps = Steps([([0.0, 3.0, 1.0], GREEDY, 0, [2] * CONTEXT), ([5.0, 3.0, 1.0], GREEDY, 0, [2])])
    assert steps.step() == [1, 0]
    assert steps.sampler.history[1, :2].tolist() == [0, 0]
    assert steps.last.tolist() == [1, 0]


def test_the_kind_of_a_step_is_no_greater_than_its_options_need() -> None:
    assert kind_of(GREEDY) is Kind.GREEDY
    assert kind_of(GenerateOptions(top_k=5, top_p=0.5, repeat_penalty=1.0)) is Kind.GREEDY
    assert kind_of(GenerateOptions(temperature=1.0, top_k=1, top_p=0.5)) is Kind.GREEDY
    assert kind_of(GenerateOptions(presence_penalty=1.0, repeat_window=0)) is Kind.GREEDY
    assert kind_of(GenerateOptions(presence_penalty=1.0)) is Kind.DRAW
    assert kind_of(GenerateOptions(logit_bias={1: 1.0})) is Kind.DRAW
    assert kind_of(GenerateOptions(temperature=0.5, top_p=1.0)) is Kind.DRAW
    cases: list[dict[str, Any]] = [{"top_k": 5}, {"top_p": 0.5}, {"min_p": 0.5}]
    for case in cases:
        assert kind_of(GenerateOptions(temperature=0.5, **case)) is Kind.FILTERED


def test_graphs_are_told_when_addresses_changed_and_only_then() -> None:
    sampler = Sampler(INTERPRETER, 2, CONTEXT, 50)
    sampler.reserve(4, Kind.DRAW)
    first = sampler.generation
    sampler.reserve(2, Kind.GREEDY)
    sampler.open(0, GenerateOptions(logit_bias=dict.fromkeys(range(3), 1.0)), 0, [1])
    assert sampler.generation == first
    sampler.open(1, GenerateOptions(logit_bias=dict.fromkeys(range(40), 1.0)), 0, [1])
    second = sampler.generation
    assert second != first
    sampler.reserve(4, Kind.FILTERED)
    assert sampler.generation not in (first, second)


@pytest.mark.parametrize("wave", [32, 64])
def test_a_gpus_blocks_cover_the_vocabulary_and_are_few_enough_for_one_program_to_look_at(wave: int) -> None:
    device = Device(torch.device("cpu"), wave, units=1)
    for vocabulary in (5, 1024, 1025, 32000, 49152, 128256, 151936, 262144, 262208):
        blocks = blocks_of(vocabulary, device)
        assert (blocks.count - 1) * blocks.size < vocabulary <= blocks.count * blocks.size
        assert blocks.count <= blocks.padded <= 256
        assert blocks.size % blocks.part == 0


def test_every_kernel_is_compiled_ahead_of_time_with_a_type_or_a_value_for_each_argument() -> None:
    for specimen in specimens(64):
        assert {*specimen.arguments, *specimen.constants} == set(specimen.kernel.arg_names)
