"""Byte-pair vocabularies (`tokenizer.ggml.model` "gpt2", "gemma4"): words by a pre-tokenizer, then ranked merges.

The merging is that of the `tokenizers` library. (llama.cpp: `llm_tokenizer_bpe_session`.)
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from itertools import chain, repeat

from tokenizers.models import BPE

from inference.gguf.tokenizer.pretokenizers import PreTokenizer, Splitter
from inference.gguf.tokenizer.vocabulary import BYTE_CHARACTERS, Vocabulary, byte_token
from inference.gguf.tokenizer.words import SPACE, Words, safe_words
from inference.gguf.unsupported import unsupported

__all__ = ["BytePairs"]

_log = logging.getLogger(__name__)

_SURROGATE = re.compile("([\ud800-\udfff])")


class BytePairs(Words):
    """The words of a byte-pair vocabulary.

    Raises:
        UnsupportedModelError: a merge is malformed, or names a token that the vocabulary does not have.
    """

    def __init__(self, vocabulary: Vocabulary, rules: PreTokenizer) -> None:
        super().__init__()
        self._ids = vocabulary.ids
        self._rules = rules
        self._splitter = Splitter(rules)
        self._safe_words = None if rules.byte_level else safe_words(vocabulary.tokens)
        # What has no token is dropped, as in llama.cpp. But it must keep its neighbours apart, so it gets an id here.
        self._end = len(vocabulary.tokens)
        symbols = BYTE_CHARACTERS if rules.byte_level else [byte_token(byte) for byte in range(256)]
        missing = [symbol for symbol in symbols if symbol not in vocabulary.ids]
        ids = {**vocabulary.ids, **dict(zip(missing, range(self._end, self._end + 256), strict=False))}
        self._byte_ids = [ids[symbol] for symbol in symbols]
        if missing:
            _refuse_merges_of(missing, vocabulary)
            _log.info("%s has no token for %d bytes: encoding drops them.", vocabulary.path.name, len(missing))
        self._bpe = _bpe(vocabulary, ids, byte_fallback=not rules.byte_level)

    def encode(self, text: str) -> list[int]:
        if self._safe_words is None:
            return self.ids(self._splitter.words(text))
        lines = self._splitter.words(text.replace(" ", SPACE))
        return self.ids(word for line in lines for word in self._safe_words.findall(line))

    def merge(self, word: str) -> Sequence[int]:
        data = word.encode("utf-8", "surrogatepass")
        if self._rules.byte_level:
            return self._merged(data.decode("latin-1").translate(_BYTE_LEVEL))
        if len(data) == len(word) or not _SURROGATE.search(word):
            return self._merged(word)
        # The library takes no lone surrogates. No token has one, so nothing merges with it.
        parts = filter(None, _SURROGATE.split(word))
        return tuple(chain.from_iterable(map(self._merged_or_surrogate, parts)))

    def _merged_or_surrogate(self, part: str) -> Sequence[int]:
        if not _SURROGATE.match(part):
            return self._merged(part)
        tokens = (self._byte_ids[byte] for byte in part.encode("utf-8", "surrogatepass"))
        return [token for token in tokens if token < self._end]

    def _merged(self, word: str) -> Sequence[int]:
        if self._rules.ignore_merges or (self._rules.whole_newlines and not word.strip("\n")):
            token = self._ids.get(word)
            if token is not None:
                return (token,)
        return tuple(token.id for token in self._bpe.tokenize(word) if token.id < self._end)


_BYTE_LEVEL = dict(enumerate(BYTE_CHARACTERS))


def _bpe(vocabulary: Vocabulary, ids: dict[str, int], *, byte_fallback: bool) -> BPE:
    lines = dict.fromkeys(vocabulary.merges)  # of a merge that comes twice, the first counts
    merges = [
        (left, right) if left and right else _odd_merge(vocabulary, line)
        for line, (left, _, right) in zip(lines, map(str.partition, lines, repeat(" ")), strict=False)
    ]
    try:
        return BPE(ids, merges, cache_capacity=0, byte_fallback=byte_fallback)
    except BaseException as error:  # the library raises no narrower one; of a panic in it Rust makes no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        for left, right in merges:
            for part in (left, right, left + right):
                if part not in vocabulary.ids:
                    found = f"the merge {f'{left} {right}'!r}, but no token {part!r}, in `tokenizer.ggml.merges`"
                    raise unsupported(vocabulary.path, found) from error
        raise unsupported(vocabulary.path, f"`tokenizer.ggml.merges` that do not fit its tokens ({error})") from error


def _refuse_merges_of(missing: Sequence[str], vocabulary: Vocabulary) -> None:
    unknown = set(missing)
    for line in vocabulary.merges:
        if not unknown.isdisjoint(line.split(" ")):
            part = min(unknown.intersection(line.split(" ")))
            found = f"the merge {line!r}, but no token {part!r}, in `tokenizer.ggml.merges`"
            raise unsupported(vocabulary.path, found)


def _odd_merge(vocabulary: Vocabulary, line: str) -> tuple[str, str]:
    """The two tokens of a merge whose first begins with a space, which no known vocabulary has."""
    place = line.find(" ", 1)
    if place < 0 or place == len(line) - 1:
        raise unsupported(vocabulary.path, f"the merge {line!r}, which is not two tokens, in `tokenizer.ggml.merges`")
    return line[:place], line[place + 1 :]
