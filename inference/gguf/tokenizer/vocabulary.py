"""What a file's metadata says about its tokens, checked."""

from __future__ import annotations

import logging
import math
import re
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from inference.gguf.header import Header
from inference.gguf.tokenizer.pretokenizers import PRETOKENIZERS, PreTokenizer
from inference.gguf.tokenizer.special_text import SpecialText
from inference.gguf.tokenizer.special_tokens import (
    Attribute,
    attributes_of,
    end_tokens,
    mark_stripping,
    special_id,
    tokens_with,
)
from inference.gguf.unsupported import unsupported

__all__ = ["BYTE_CHARACTERS", "Vocabulary", "byte_token", "read_vocabulary"]

_log = logging.getLogger(__name__)

_TOKENS = "tokenizer.ggml.tokens"
_SCORES = "tokenizer.ggml.scores"
_TYPES = "tokenizer.ggml.token_type"
_MERGES = "tokenizer.ggml.merges"
_MODEL = "tokenizer.ggml.model"
_PRE = "tokenizer.ggml.pre"

_MODELS = {"llama": (1, 2), "gpt2": (11, 11), "gemma4": (None, None)}
"""The kinds of vocabularies, each with the BOS and EOS of files that name none."""
_OTHER_MODELS = {"bert": "WordPiece", "t5": "Unigram"}
_BYTE_TOKEN = re.compile("<0x([0-9A-Fa-f]{2})>")

_PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
BYTE_CHARACTERS = [
    chr(byte if byte in _PRINTABLE else 0x100 + sum(other not in _PRINTABLE for other in range(byte)))
    for byte in range(256)
]
"""GPT-2's characters for the 256 bytes: printable ones stand for themselves, the others for U+0100 and on."""


def byte_token(byte: int) -> str:
    """How SentencePiece vocabularies write the token of a single byte."""
    return f"<0x{byte:02X}>"


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The tokens of a file and the rules that come with them."""

    path: Path
    pretokenizer: PreTokenizer | None
    """None for SentencePiece vocabularies, which have none."""
    tokens: Sequence[str] = field(repr=False)
    ids: dict[str, int] = field(repr=False)
    """By the tokens' texts."""
    scores: Sequence[float] = field(repr=False)
    """As many as tokens, or none."""
    merges: Sequence[str] = field(repr=False)
    attributes: bytes = field(repr=False)
    """An `Attribute` for each token."""
    bos: int | None
    eos: int | None
    ends: frozenset[int]
    """What ends a generation."""
    add_bos: bool
    add_eos: bool
    add_space_prefix: bool

    @property
    def byte_ids(self) -> list[int]:
        """The tokens that stand for single bytes in a SentencePiece vocabulary, by byte.

        Raises:
            UnsupportedModelError: a byte has none.
        """
        found = []
        for byte in range(256):
            spellings = (byte_token(byte), *([chr(byte)] if byte < 0x80 else []))
            token = next((self.ids[text] for text in spellings if text in self.ids), None)
            if token is None:
                raise unsupported(self.path, f"no token for the byte {byte_token(byte)} in `{_TOKENS}`")
            found.append(token)
        return found

    def special_texts(self, kind: int) -> list[SpecialText]:
        """The tokens of some `kind`, a sum of attributes, that are cut out of a text before anything is merged."""
        return [
            SpecialText(
                self.tokens[token],
                token,
                bool(self.attributes[token] & Attribute.SWALLOWS_BEFORE),
                bool(self.attributes[token] & Attribute.SWALLOWS_AFTER),
            )
            for token in tokens_with(self.attributes, kind)
        ]


def read_vocabulary(header: Header) -> Vocabulary:
    """The vocabulary in a file's metadata.

    Raises:
        CorruptFileError: a key has a value of another type than the format's.
        UnsupportedModelError: there is no vocabulary; it is of a kind that is not known; or it contradicts itself.
    """
    model = _model(header)
    rules = None if model == "llama" else _pretokenizer(header, model)
    tokens = _tokens(header)
    ids = dict(zip(tokens, range(len(tokens)), strict=True))
    if len(ids) != len(tokens):
        text, count = Counter(tokens).most_common(1)[0]
        raise unsupported(header.path, f"the token {text!r} {count} times in `{_TOKENS}`")
    attributes = attributes_of(_aligned(header, _TYPES, len(tokens)), len(tokens))
    bos, eos = _begin_and_end(header, model, rules, len(tokens))
    ends = end_tokens(header, ids, attributes, eos)
    mark_stripping(header, ids, attributes)
    _check_byte_tokens(header, tokens, attributes)
    add_bos, add_eos = _added(header, rules, bos, eos)
    return Vocabulary(
        path=header.path,
        pretokenizer=rules,
        tokens=tokens,
        ids=ids,
        scores=_scores(header, len(tokens)) if rules is None else (),
        merges=() if rules is None else _merges(header),
        attributes=bytes(attributes),
        bos=bos,
        eos=eos,
        ends=ends,
        add_bos=add_bos,
        add_eos=add_eos,
        add_space_prefix=rules is None and header.boolean("tokenizer.ggml.add_space_prefix", True),
    )


def _model(header: Header) -> str:
    if _MODEL not in header.metadata:
        raise unsupported(header.path, f"no vocabulary (no `{_MODEL}`)")
    model = header.text(_MODEL)
    if model not in _MODELS:
        kind = f" ({_OTHER_MODELS[model]})" if model in _OTHER_MODELS else ""
        raise unsupported(header.path, f"the tokenizer {model!r}{kind} in `{_MODEL}`", _MODELS)
    return model


def _pretokenizer(header: Header, model: str) -> PreTokenizer:
    pre = "gemma4" if model == "gemma4" else header.text(_PRE, "")
    if not pre:
        # llama.cpp does the same. Files from before there was such a key are of models that it suits more or less.
        _log.warning("%s names no pre-tokenizer (`%s`): the default one is used.", header.path.name, _PRE)
        pre = "default"
    if pre not in PRETOKENIZERS:
        raise unsupported(header.path, f"the pre-tokenizer {pre!r} in `{_PRE}`", sorted(PRETOKENIZERS))
    return PRETOKENIZERS[pre]


def _tokens(header: Header) -> Sequence[str]:
    if _TOKENS not in header.metadata or not header.texts(_TOKENS):
        raise unsupported(header.path, f"no vocabulary (no `{_TOKENS}`)")
    tokens = header.texts(_TOKENS)
    if "" in tokens:
        tokens = [text or f"[EMPTY_{token}]" for token, text in enumerate(tokens)]
    return tokens


def _merges(header: Header) -> Sequence[str]:
    if _MERGES not in header.metadata:
        if header.text(_PRE, "") == "kimi-k2":
            return ()
        raise unsupported(header.path, f"no merges (`{_MERGES}`)")
    return header.texts(_MERGES)


def _aligned(header: Header, key: str, size: int) -> Sequence[int] | None:
    """The numbers at `key`, one for each token; None if the file has none."""
    if key not in header.metadata:
        return None
    length = header.metadata.length(key)
    if length is not None and length != size:
        raise unsupported(header.path, f"{length:,} values in `{key}`, but {size:,} in `{_TOKENS}`")
    return header.integers(key)


def _scores(header: Header, size: int) -> Sequence[float]:
    if _SCORES not in header.metadata:
        return [0.0] * size
    if header.metadata.type_name(_SCORES) != "array of float32":
        return [float(score) for score in _aligned(header, _SCORES, size) or ()]
    scores = header.metadata[_SCORES]
    assert isinstance(scores, array)
    if len(scores) != size:
        raise unsupported(header.path, f"{len(scores):,} values in `{_SCORES}`, but {size:,} in `{_TOKENS}`")
    if any(map(math.isnan, scores)):
        raise unsupported(header.path, f"a score that is no number in `{_SCORES}`")
    return scores


def _begin_and_end(header: Header, model: str, rules: PreTokenizer | None, size: int) -> tuple[int | None, int | None]:
    """BOS and EOS: as the file says, else as its kind of vocabulary has them, if it has that many tokens."""
    bos, eos = (token if token is not None and token < size else None for token in _MODELS[model])
    if rules is not None and not rules.default_bos:
        bos = None
    given_bos, given_eos = special_id(header, "bos", size), special_id(header, "eos", size)
    return (bos if given_bos is None else given_bos), (eos if given_eos is None else given_eos)


def _added(header: Header, rules: PreTokenizer | None, bos: int | None, eos: int | None) -> tuple[bool, bool]:
    """Whether a prompt begins with BOS and ends with EOS."""
    add_bos = header.boolean("tokenizer.ggml.add_bos_token", rules is None or rules.add_bos)
    add_eos = header.boolean("tokenizer.ggml.add_eos_token", False)
    add_bos = add_bos or (rules is not None and rules.always_bos)
    for name, is_added, token in (("bos", add_bos, bos), ("eos", add_eos, eos)):
        if is_added and token is None:
            raise unsupported(
                header.path, f"prompts with {name.upper()}, but no such token (`tokenizer.ggml.{name}_token_id`)"
            )
    return add_bos, add_eos


def _check_byte_tokens(header: Header, tokens: Sequence[str], attributes: bytearray) -> None:
    for token in tokens_with(attributes, Attribute.BYTE):
        if not _BYTE_TOKEN.fullmatch(tokens[token]):
            found = f"the token {token} of a byte in `{_TYPES}`, but {tokens[token]!r} for it in `{_TOKENS}`"
            raise unsupported(header.path, found)
