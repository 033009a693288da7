"""The bytes that a token stands for, by the `decoder` of tokenizer.json."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from inference.errors import UnsupportedModelError
from inference.gguf.tokenizer.vocabulary import BYTE_CHARACTERS, byte_token
from inference.gguf.tokenizer.words import SPACE

__all__ = ["Pieces"]

_BYTES = {character: bytes([byte]) for byte, character in enumerate(BYTE_CHARACTERS)}
_BYTE_TOKENS = {byte_token(byte): bytes([byte]) for byte in range(256)}
_WHOLE_TEXT = ("Fuse", "Strip")
"""These do nothing to a token: one joins them all, the other trims what is joined, which no stream of tokens can."""


class Pieces:
    """How a vocabulary writes bytes: in GPT-2's characters ("byte level"), or as text, with a token such as <0x0A> for
    a byte that has no other.

    Raises:
        UnsupportedModelError: the decoder is of another kind (WordPiece, CTC).
    """

    def __init__(self, decoder: Mapping[str, Any] | None, path: Path) -> None:
        steps = list(_steps(decoder or {}))
        kinds = [step.get("type") for step in steps]
        self.byte_level = "ByteLevel" in kinds
        self._byte_fallback = "ByteFallback" in kinds
        self._replaced: list[tuple[str, str]] = []
        for step in steps:
            match step:
                case {"type": "Replace", "pattern": {"String": str(old)}, "content": str(new)} if old:
                    self._replaced.append((old, new))
                case {"type": "Metaspace", "replacement": str(old)} if old:
                    self._replaced.append((old, " "))
                case {"type": "ByteLevel" | "ByteFallback" | "Fuse" | "Strip"}:
                    pass
                case _:
                    raise _unsupported(path, kinds)
        if not self.byte_level and not self._replaced:
            raise _unsupported(path, kinds)
        if "Strip" in kinds and "Fuse" not in kinds[: kinds.index("Strip")]:  # it would trim every token
            raise _unsupported(path, kinds)

    def piece(self, token: str, *, added: bool) -> bytes:
        """The bytes of the token that the vocabulary writes as `token`. `added`: it is cut out of a text as it stands,
        before the text is written in GPT-2's characters."""
        if self.byte_level:
            if not added and all(character in _BYTES for character in token):
                return b"".join(map(_BYTES.__getitem__, token))
            return token.encode()
        if self._byte_fallback and token in _BYTE_TOKENS:
            return _BYTE_TOKENS[token]
        for old, new in self._replaced:
            token = token.replace(old, new)
        return token.encode()

    def spelled(self, text: str, id_of: Callable[[str], int | None]) -> list[int]:
        """Ids of `text` without any merging: a token for each byte or character. What has none is left out."""
        if self.byte_level:
            found = [id_of(BYTE_CHARACTERS[byte]) for byte in text.encode()]
        else:
            found = []
            for character in text.replace(" ", SPACE):
                token = id_of(character)
                found += [id_of(byte_token(byte)) for byte in character.encode()] if token is None else [token]
        return [token for token in found if token is not None]


def _steps(decoder: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if decoder.get("type") == "Sequence":
        for step in decoder["decoders"]:
            yield from _steps(step)
    else:
        yield decoder


def _unsupported(path: Path, kinds: Sequence[Any]) -> UnsupportedModelError:
    found = ", ".join(str(kind) for kind in kinds) if kinds != [None] else "none"
    return UnsupportedModelError(
        f"{path} has a decoder that is not known here: {found}. Known are ByteLevel, and SentencePiece's (Replace or "
        "Metaspace, with ByteFallback). Take the model's GGUF file."
    )
