"""SentencePiece vocabularies (`tokenizer.ggml.model` "llama"): neighbours merge to the token with the highest score.

Which merge comes first is a matter of scores and, between equal ones, of places: the leftmost wins. Lists of ranked
merges, which is what BPE libraries take, cannot say the latter, and vocabularies with hundreds of equal scores are
common (added tokens, white-space runs). So the merging is done here, from the scores as they are.
(llama.cpp: `llm_tokenizer_spm_session`.)
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush
from operator import neg

from inference.gguf.tokenizer.vocabulary import Vocabulary
from inference.gguf.tokenizer.words import SPACE, Words, safe_words

__all__ = ["ScoredPieces"]


class ScoredPieces(Words):
    """The words of a SentencePiece vocabulary.

    Raises:
        UnsupportedModelError: a byte has no token.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__()
        self._ids = vocabulary.ids
        self._byte_ids = vocabulary.byte_ids
        self._costs = dict(zip(vocabulary.tokens, map(neg, vocabulary.scores), strict=True))
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
        """What is left when nothing merges any more. A piece lives at its first character's place; places that were
        merged into another are empty."""
        cost_of = self._costs.get
        pieces = list(word)
        end = len(pieces)
        following, preceding = list(range(1, end + 1)), list(range(-1, end - 1))
        pairs: list[tuple[float, int, int, str]] = []

        def consider(left: int, right: int) -> None:
            both = pieces[left] + pieces[right]
            cost = cost_of(both)
            if cost is not None:
                heappush(pairs, (cost, left, right, both))

        for left in range(end - 1):
            consider(left, left + 1)
        while pairs:
            _, left, right, both = heappop(pairs)
            if not pieces[left] or not pieces[right] or len(pieces[left]) + len(pieces[right]) != len(both):
                continue  # one of them has merged with another since
            pieces[left], pieces[right] = both, ""
            after = following[left] = following[right]
            if after < end:
                preceding[after] = left
                consider(left, after)
            if preceding[left] >= 0:
                consider(preceding[left], left)
        return [piece for piece in pieces if piece]
