"""SentencePiece vocabularies (`tokenizer.ggml.model` "llama"): neighbours merge to the token with the highest score.

Which merge comes first is a matter of scores and, between equal ones, of places: the leftmost wins. Lists of ranked
merges, which is what BPE libraries take, cannot say the latter, and vocabularies with hundreds of equal scores are
common (added tokens, white-space runs). So the merging is done here, from the scores as they are.
(llama.cpp: `llm_tokenizer_spm_session`.)
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from math import inf
from operator import add

from inference.gguf.tokenizer.vocabulary import Vocabulary
from inference.gguf.tokenizer.words import SPACE, Words, safe_words

__all__ = ["ScoredPieces"]

_LAST = 1e300
"""Beyond every score that a file can hold."""
_SHORT = 24
"""Characters of a word up to which looking through its pairs is faster than keeping them in order."""


class ScoredPieces(Words):
    """The words of a SentencePiece vocabulary.

    Raises:
        UnsupportedModelError: a byte has no token.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__()
        self._ids = vocabulary.ids
        self._byte_ids = vocabulary.byte_ids
        # A score of minus infinity, too, merges in the end.
        costs = (min(-score, _LAST) for score in vocabulary.scores)
        self._costs = dict(zip(vocabulary.tokens, costs, strict=True))
        self._words = safe_words(vocabulary.tokens)

    def encode(self, text: str) -> list[int]:
        return self.ids(self._words.findall(text.replace(" ", SPACE)))

    def merge(self, word: str) -> Sequence[int]:
        found: list[int] = []
        for piece in self._pieces(word):
            token = self._ids.get(piece)
            if token is None:  # a single character
                found += [self._byte_ids[byte] for byte in piece.encode("utf-8", "surrogatepass")]
            else:
                found.append(token)
        return tuple(found)

    def _pieces(self, word: str) -> list[str]:
        """What is left when nothing merges any more."""
        return self._scanned(word) if len(word) <= _SHORT else self._queued(word)

    def _scanned(self, word: str) -> list[str]:
        """By looking through all pairs for each merge: the faster way for a few."""
        cost_of = self._costs.get
        pieces = list(word)
        costs = [cost_of(both, inf) for both in map(add, pieces, pieces[1:])]
        while costs:
            lowest = min(costs)
            if lowest == inf:
                break
            left = costs.index(lowest)
            pieces[left] += pieces.pop(left + 1)
            del costs[left]
            if left < len(costs):
                costs[left] = cost_of(pieces[left] + pieces[left + 1], inf)
            if left:
                costs[left - 1] = cost_of(pieces[left - 1] + pieces[left], inf)
        return pieces

    def _queued(self, word: str) -> list[str]:
        """By a queue of pairs. A piece lives at its first character's place; places that were merged into another are
        empty."""
        cost_of = self._costs.get
        pieces = list(word)
        end = len(pieces)
        following, preceding = list(range(1, end + 1)), list(range(-1, end - 1))
        neighbours = enumerate(map(add, pieces, pieces[1:]))
        pairs = [(cost, left, left + 1, both) for left, both in neighbours if (cost := cost_of(both)) is not None]
        heapify(pairs)
        while pairs:
            _, left, right, both = heappop(pairs)
            if not pieces[left] or not pieces[right] or len(pieces[left]) + len(pieces[right]) != len(both):
                continue  # one of them has merged with another since
            pieces[left], pieces[right] = both, ""
            after = following[left] = following[right]
            if after < end:
                preceding[after] = left
                longer = both + pieces[after]
                if (cost := cost_of(longer)) is not None:
                    heappush(pairs, (cost, left, after, longer))
            before = preceding[left]
            if before >= 0:
                longer = pieces[before] + both
                if (cost := cost_of(longer)) is not None:
                    heappush(pairs, (cost, before, left, longer))
        return [piece for piece in pieces if piece]
