from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from inference.engine.stopping import StopStrings

letters = st.text("ab", max_size=30)
stop_lists = st.lists(st.text("ab", min_size=1, max_size=5), max_size=4)


def shown(stops: list[str], pieces: list[str]) -> tuple[str, bool]:
    """What a reader sees of a text that comes in these pieces."""
    matcher = StopStrings(stops)
    text = ""
    for piece in pieces:
        more, stopped = matcher.feed(piece)
        text += more
        if stopped:
            return text, True
    return text + matcher.flush(), False


def expected(stops: list[str], text: str) -> tuple[str, bool]:
    """The same, read off the whole text: the match that ends first, and of those the longest."""
    ends = [(start + len(stop), start) for stop in stops for start in range(len(text)) if text.startswith(stop, start)]
    return (text[: min(ends)[1]], True) if ends else (text, False)


@given(stop_lists, st.lists(st.text("ab", max_size=4), max_size=12))
def test_the_text_ends_at_the_same_place_however_it_was_cut(stops: list[str], pieces: list[str]) -> None:
    assert shown(stops, pieces) == expected(stops, "".join(pieces))


@given(stop_lists, letters)
def test_nothing_is_held_back_that_cannot_begin_a_stop_string(stops: list[str], text: str) -> None:
    matcher = StopStrings(stops)
    before, stopped = matcher.feed(text)
    if not stopped:
        held = text[len(before) :]
        assert held == "" or any(stop.startswith(held) and stop != held for stop in stops)


def test_a_stop_string_over_three_tokens_is_found_and_not_shown() -> None:
    assert shown(["</answer>"], ["42 </", "ans", "wer> and more"]) == ("42 ", True)


def test_a_beginning_that_goes_on_otherwise_is_shown_whole() -> None:
    assert shown(["</answer>"], ["a </", "b>"]) == ("a </b>", False)


def test_without_stop_strings_text_passes_at_once() -> None:
    assert StopStrings(()).feed("anything") == ("anything", False)


def test_many_long_stop_strings_are_found_in_the_memory_of_their_characters() -> None:
    stops = ["a" * 15_000, *(f"stop {number:04}" for number in range(150))]
    tracemalloc.start()
    matcher = StopStrings(stops)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 * 2**20
    assert matcher.feed("a" * 14_999 + "b st") == ("a" * 14_999 + "b ", False)
    assert matcher.feed("op 0149") == ("", True)
