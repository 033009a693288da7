"""The near-tie rule lets rounding pass, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from conformance.near_ties import divergence, near_ties

RNG = np.random.default_rng(7)
EXACT = RNG.normal(0, 3, (64, 100))
EXACT[np.arange(64), EXACT.argmax(axis=-1)] += 1  # no ties but those that a test makes


def rounded(scale: float, seed: int) -> np.ndarray:
    return EXACT + np.random.default_rng(seed).normal(0, scale, EXACT.shape)


def with_gap(position: int, gap: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Exact logits with two tokens `gap` apart at one position, and two engines that choose differently there."""
    exact = EXACT.copy()
    first, second = exact[position].argsort()[-1], exact[position].argsort()[-2]
    exact[position, second] = exact[position, first] - gap
    one, other = exact + (rounded(0.01, 1) - EXACT), exact + (rounded(0.01, 2) - EXACT)
    one[position] = other[position] = exact[position]
    other[position, second] += gap + 0.001
    return exact, one, other


def test_engines_that_choose_alike_have_no_ties() -> None:
    assert near_ties(EXACT, rounded(1e-6, 1), rounded(1e-6, 2)) == []


def test_a_gap_below_the_rounding_is_a_near_tie_and_is_shown() -> None:
    (tie,) = near_ties(*with_gap(20, 0.005))
    assert tie.position == 20
    assert tie.gap == pytest.approx(0.005)
    assert tie.gap < tie.rounding


def test_a_gap_above_the_rounding_fails_however_few_they_are() -> None:
    with pytest.raises(AssertionError, match="compute different models"):
        near_ties(*with_gap(20, 0.5))


def test_a_position_does_not_excuse_itself() -> None:
    """What an engine gets wrong where the texts part is not counted as its rounding."""
    exact, one, other = with_gap(20, 2.0)
    with pytest.raises(AssertionError, match="position 20"):
        near_ties(exact, one, other)


def test_engines_that_mostly_differ_are_refused_outright() -> None:
    with pytest.raises(AssertionError, match="no rounding"):
        near_ties(EXACT, EXACT, RNG.normal(0, 3, EXACT.shape))


def test_noise_that_changes_every_fifth_choice_is_no_rounding() -> None:
    noisy = rounded(1.5, 3)
    assert 0.5 < (noisy.argmax(axis=-1) == EXACT.argmax(axis=-1)).mean() < 0.85
    with pytest.raises(AssertionError, match="no rounding"):
        near_ties(EXACT, EXACT, noisy)


def test_two_unlikely_tokens_are_no_near_tie_however_close_they_are_to_each_other() -> None:
    exact, one, other = EXACT.copy(), EXACT.copy(), EXACT.copy()
    first, second = exact[20].argsort()[:2]
    exact[20, first] = exact[20, second]
    one[20, first], other[20, second] = 50, 50
    with pytest.raises(AssertionError, match="below the likeliest"):
        near_ties(exact, one, other)


def test_a_token_that_both_get_wrong_is_found() -> None:
    wrong = EXACT.copy()
    wrong[20, wrong[20].argmin()] = 50
    with pytest.raises(AssertionError, match="position 20"):
        near_ties(EXACT, wrong, wrong)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_refused(value: float) -> None:
    broken = EXACT.copy()
    broken[3] = value
    with pytest.raises(AssertionError, match="not finite"):
        near_ties(EXACT, broken, broken)


def test_the_divergence_of_equal_logits_is_nothing_and_grows_with_the_rounding() -> None:
    assert divergence(EXACT, EXACT) == (0.0, 1.0)
    small, large = divergence(EXACT, rounded(0.01, 1))[0], divergence(EXACT, rounded(0.1, 1))[0]
    assert 0 < small < large
