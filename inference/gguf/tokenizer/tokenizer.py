"""A model's tokenizer, from its file's metadata alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from inference.errors import InvalidTokenError, PromptError
from inference.gguf.header import Header
from inference.gguf.tokenizer.byte_level import BytePairs
from inference.gguf.tokenizer.sentencepiece import ScoredPieces
from inference.gguf.tokenizer.special_text import SpecialTexts
from inference.gguf.tokenizer.special_tokens import Attribute
from inference.gguf.tokenizer.vocabulary import BYTE_CHARACTERS, Vocabulary, read_vocabulary
from inference.gguf.tokenizer.words import SPACE, Words

__all__ = ["GGUFTokenizer", "tokenizer_of"]

_HIDDEN = Attribute.CONTROL | Attribute.UNKNOWN
"""Tokens that only `parse_special` reads, and that add nothing to a text."""
_SPECIAL = _HIDDEN | Attribute.USER_DEFINED
_BYTES = {character: bytes([byte]) for byte, character in enumerate(BYTE_CHARACTERS)}


def tokenizer_of(header: Header) -> GGUFTokenizer:
    """The tokenizer that a file's metadata describes.

    Raises:
        CorruptFileError: a key has a value of another type than the format's.
        UnsupportedModelError: the file has no vocabulary; it is of a kind, or its pre-tokenizer has a name, that is not
            known; or it contradicts itself: tokens twice, ids beyond the vocabulary, merges of tokens that it lacks.
    """
    return GGUFTokenizer(read_vocabulary(header))


class GGUFTokenizer:
    """Implements `inference.Tokenizer`, with the same ids as llama.cpp's tokenizer (`llama_vocab::impl::tokenize`) and
    the same bytes for a token (`token_to_piece`). Safe to call from many threads at once."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        rules = vocabulary.pretokenizer
        self._vocabulary = replace(vocabulary, merges=(), scores=())  # the words have what they need of them
        self._words: Words = ScoredPieces(vocabulary) if rules is None else BytePairs(vocabulary, rules)
        self._plain_spaces = rules is None or not rules.byte_level
        self._user_defined = SpecialTexts(
            special
            for special in vocabulary.special_texts(Attribute.USER_DEFINED)
            if not vocabulary.attributes[special.token] & _HIDDEN
        )
        self._special = SpecialTexts(vocabulary.special_texts(_SPECIAL))
        self._control_texts = tuple(special.text for special in vocabulary.special_texts(_HIDDEN))
        self._pieces: list[bytes | None] = [None] * len(vocabulary.tokens)

    @property
    def vocabulary_size(self) -> int:
        """How many ids there are: 0 to one less than this."""
        return len(self._pieces)

    @property
    def bos_token(self) -> int | None:
        """Id of the beginning-of-sequence token."""
        return self._vocabulary.bos

    @property
    def eos_token(self) -> int | None:
        """Id of the end-of-sequence token."""
        return self._vocabulary.eos

    def is_end(self, token: int) -> bool:
        """Whether `token` is one of the model's end-of-generation tokens.

        Raises:
            InvalidTokenError: the vocabulary has no such token.
        """
        self._require_known(token)
        return token in self._vocabulary.ends

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Ids of `text`. `add_special` puts BOS (EOS) where the model wants them; `parse_special` reads the text of a
        control token as that token. User-defined tokens are read in any case. Lone surrogates are encoded as the three
        bytes that UTF-8 would have for them.

        Raises:
            PromptError: `text` is no text.
        """
        if not isinstance(text, str):
            raise PromptError(f"`encode` takes text, got {type(text).__name__}.")
        vocabulary = self._vocabulary
        ids: list[int] = []
        if add_special and vocabulary.add_bos and vocabulary.bos is not None:
            ids.append(vocabulary.bos)
        space = " " if vocabulary.add_space_prefix else ""  # before each text: a special token, or nothing, precedes it
        for piece in (self._special if parse_special else self._user_defined).cut(text):
            if isinstance(piece, str):
                ids += self._words.encode(space + piece)
            else:
                ids.append(piece)
        if add_special and vocabulary.add_eos and vocabulary.eos is not None:
            ids.append(vocabulary.eos)
        return ids

    def decode(self, tokens: Iterable[int]) -> str:
        """Text of `tokens`. Bytes that are no UTF-8 become U+FFFD; control tokens have no text.

        Raises:
            InvalidTokenError: the vocabulary lacks one of them.
        """
        return b"".join(map(self.token_bytes, tokens)).decode("utf-8", "replace")

    def token_bytes(self, token: int) -> bytes:
        """The bytes that `token` adds to a text; empty for control tokens.

        Raises:
            InvalidTokenError: the vocabulary has no such token.
        """
        self._require_known(token)
        if self._vocabulary.attributes[token] & _HIDDEN:
            return b""
        return self._piece(token)

    def control_text(self, token: int) -> str:
        """How the vocabulary writes `token`: "<|im_end|>", "</s>".

        Raises:
            InvalidTokenError: the vocabulary has no such token.
        """
        self._require_known(token)
        return self._piece(token).decode("utf-8", "replace")

    def control_texts(self) -> Sequence[str]:
        """The texts that `parse_special` would read as control tokens."""
        return self._control_texts

    def _piece(self, token: int) -> bytes:
        piece = self._pieces[token]
        if piece is None:
            piece = self._pieces[token] = self._spelled_out(token)
        return piece

    def _spelled_out(self, token: int) -> bytes:
        text, attribute = self._vocabulary.tokens[token], self._vocabulary.attributes[token]
        if attribute & _SPECIAL:
            return text.encode()
        if attribute & Attribute.NORMAL:
            if self._plain_spaces:
                return text.replace(SPACE, " ").encode()
            return b"".join(_BYTES.get(character) or _no_byte(character, text) for character in text)
        if attribute & Attribute.BYTE:
            return bytes([int(text[3:5], 16)])
        return b""

    def _require_known(self, token: int) -> None:
        size = len(self._pieces)
        if not 0 <= token < size:
            raise InvalidTokenError(f"Token {token} is not in the vocabulary, whose ids go from 0 to {size - 1}.")


def _no_byte(character: str, text: str) -> bytes:
    """What llama.cpp writes for a character that stands for no byte (`llama_decode_text`)."""
    return f"[UNK_BYTE_0x{character.encode().hex()}{text}]".encode()
