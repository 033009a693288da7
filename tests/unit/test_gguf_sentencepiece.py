"""SentencePiece merges: the highest score first, and of equal ones the leftmost, however it is worked out."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.gguf.tokenizer.sentencepiece import ScoredPieces

SCORES = st.sampled_from([0.0, -1.0, -2.0, -1000.0, -math.inf, 3.5])


def pieces_with(scores: dict[str, float]) -> ScoredPieces:
    pieces = ScoredPieces.__new__(ScoredPieces)
    pieces._costs = {text: min(-score, 1e300) for text, score in scores.items()}
    return pieces


def merged_by_the_rule(word: str, scores: dict[str, float]) -> list[str]:
    pieces = list(word)
    while True:
        pairs = [(left, pieces[left] + pieces[left + 1]) for left in range(len(pieces) - 1)]
        best = max(
            (pair for pair in pairs if pair[1] in scores), key=lambda pair: (scores[pair[1]], -pair[0]), default=None
        )
        if best is None:
            return pieces
        pieces[best[0] : best[0] + 2] = [best[1]]


@given(
    st.text("abc", max_size=40),
    st.dictionaries(st.text("abc", min_size=2, max_size=5), SCORES, max_size=40),
)
def test_both_ways_of_merging_follow_the_rule(word: str, scores: dict[str, float]) -> None:
    pieces = pieces_with(scores)
    expected = merged_by_the_rule(word, scores)
    assert pieces._scanned(word) == expected
    assert pieces._queued(word) == expected


@pytest.mark.parametrize("length", [1, 24, 25, 5000])
def test_words_of_every_length_are_merged(length: int) -> None:
    pieces = pieces_with({"aa": -1.0, "aaaa": -2.0})
    assert "".join(pieces._pieces("a" * length)) == "a" * length
    assert len(pieces._pieces("a" * length)) == length // 4 + length % 4 // 2 + length % 2
