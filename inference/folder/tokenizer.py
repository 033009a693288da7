"""Text to ids and back, by a folder's tokenizer.json. Needs the package `tokenizers`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Library

from inference.errors import InvalidTokenError, PromptError
from inference.folder.documents import damaged, read_text
from inference.folder.folder import Folder, SpecialTokens
from inference.folder.pieces import Pieces
from inference.folder.reader import TOKENIZER
from inference.gguf.tokenizer.special_tokens import CHANNELS

__all__ = ["FolderTokenizer", "tokenizer_of"]

_SURROGATE = re.compile("[\ud800-\udfff]")
_NOWHERE = "\U0010ffff"
"""A character that no vocabulary has a token for."""


def tokenizer_of(folder: Folder) -> FolderTokenizer:
    """The tokenizer of a folder.

    Raises:
        CorruptFileError: tokenizer.json is not what the `tokenizers` library reads.
        UnsupportedModelError: it is of a kind whose tokens' bytes are not known here (WordPiece, CTC).
    """
    return FolderTokenizer(folder.path / TOKENIZER, folder.special_tokens, folder.vocabulary_size)


class FolderTokenizer:
    """Implements `inference.Tokenizer` on the `tokenizers` library, whose ids it gives. Safe to call from many threads
    at once.

    Control tokens are those that tokenizer.json calls special, and those that begin or end a text. Their texts become
    these tokens only with `parse_special`. Other added tokens ("<think>") are read in any case, and have text.
    """

    def __init__(self, path: Path, special: SpecialTokens, vocabulary_size: int) -> None:
        self._path = path
        self._library = _read(path)
        self._lock = Lock()  # for `encode_special_tokens`, which is the library object's and not the call's
        self._size = vocabulary_size
        self._pieces = Pieces(_decoder(self._library), path)
        self._bos, self._eos = self._id(special.bos), self._id(special.eos)
        self._ends = frozenset(token for token in (self._eos, *special.ends) if token is not None)
        self._make_control()
        self._added = self._library.get_added_tokens_decoder()
        self._control = {token: added.content for token, added in self._added.items() if added.special}
        self._hidden = {token for token, text in self._control.items() if text not in CHANNELS}
        self._never_plain = self._control.keys() - (self._unknown() - self._ends - {self._bos})
        self._before, self._after = self._around(special)
        self._known: dict[int, bytes] = {}

    @property
    def vocabulary_size(self) -> int:
        """How many ids there are: 0 to one less than this. The last ones may have no token."""
        return self._size

    @property
    def bos_token(self) -> int | None:
        """Id of the beginning-of-sequence token."""
        return self._bos

    @property
    def eos_token(self) -> int | None:
        """Id of the end-of-sequence token."""
        return self._eos

    def is_end(self, token: int) -> bool:
        """Whether `token` is one of the model's end-of-generation tokens: those that the folder names.

        Raises:
            InvalidTokenError: the vocabulary has no such token.
        """
        self._require_known(token)
        return token in self._ends

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Ids of `text`. `add_special` puts BOS (EOS) where the model wants them; `parse_special` reads the text of a
        control token as that token. Lone surrogates, which no vocabulary has, count as U+FFFD.

        Raises:
            PromptError: `text` is no text, or the vocabulary cannot write it.
            InvalidTokenError: it holds a token for which the model has no weights.
        """
        if not isinstance(text, str):
            raise PromptError(f"`encode` takes text, got {type(text).__name__}.")
        text = _SURROGATE.sub("\ufffd", text)
        ids = self._encoded(text, parse_special)
        if add_special:
            ids = [*self._before, *ids, *self._after]
        if max(ids, default=0) >= self._size:
            token = max(ids)
            raise InvalidTokenError(
                f"{self._library.id_to_token(token)!r} in the text is token {token} of {self._path}, but the model has "
                f"weights for {self._size} tokens only."
            )
        return ids

    def decode(self, tokens: Iterable[int]) -> str:
        """Text of `tokens`. Bytes that are no UTF-8 become U+FFFD; control tokens have no text. A space that
        SentencePiece puts before a text stays.

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
        return b"" if token in self._hidden else self._piece(token)

    def control_text(self, token: int) -> str:
        """How the vocabulary writes `token`: "<|im_end|>", "</s>"; "" for an id without a token.

        Raises:
            InvalidTokenError: the vocabulary has no such token.
        """
        self._require_known(token)
        text = self._control.get(token)
        return self._piece(token).decode("utf-8", "replace") if text is None else text

    def control_texts(self) -> Sequence[str]:
        """The texts that `parse_special` would read as control tokens."""
        return tuple(self._control.values())

    # What the vocabulary has -------------------------------------------------------------------------------------

    def _id(self, token: str | int | None) -> int | None:
        """The id of a token given by its text or its id, None if the model has no such token."""
        found: int | None = self._library.token_to_id(token) if isinstance(token, str) else token
        return found if found is not None and found < self._size else None

    def _make_control(self) -> None:
        """Have the library treat every control token as such, and look for its text as it stands: in a normalised text
        look-alikes may have become the same."""
        added = self._library.get_added_tokens_decoder()
        wanted = {token for token, entry in added.items() if entry.special or token in self._ends}
        wanted |= {token for token in (self._bos, self._eos) if token is not None}
        entries = []
        for token in sorted(wanted):
            entry = added.get(token)
            if entry is None or not entry.special or entry.normalized:
                text = entry.content if entry else self._library.id_to_token(token)
                strips = {name: bool(entry and getattr(entry, name)) for name in ("single_word", "lstrip", "rstrip")}
                if text:
                    entries.append(AddedToken(text, normalized=False, special=True, **strips))
        self._library.add_special_tokens(entries)

    def _unknown(self) -> set[int]:
        """What the vocabulary writes for a character that it does not have."""
        try:
            with _told_as(ValueError):
                return {token.id for token in self._library.model.tokenize(_NOWHERE)}
        except ValueError:  # there is no such token
            return set()

    def _around(self, special: SpecialTokens) -> tuple[list[int], list[int]]:
        """What comes before and after each text: by the post-processor, unless the folder says otherwise of BOS and
        EOS."""
        with _told_as(lambda error: damaged(self._path, f"the `tokenizers` library fails with it ({error})")):
            text: list[int] = self._library.encode("a", add_special_tokens=False).ids
            whole: list[int] = self._library.encode("a").ids
        starts = range(len(whole) - len(text) + 1)
        start = next((start for start in starts if whole[start : start + len(text)] == text), 0)
        before, after = whole[:start], whole[start + len(text) :]
        if special.add_bos is not None and self._bos is not None:
            before = [self._bos] * special.add_bos + [token for token in before if token != self._bos]
        if special.add_eos is not None and self._eos is not None:
            after = [token for token in after if token != self._eos] + [self._eos] * special.add_eos
        return before, after

    def _piece(self, token: int) -> bytes:
        piece = self._known.get(token)
        if piece is None:
            text = self._library.id_to_token(token) or ""
            piece = self._known[token] = self._pieces.piece(text, added=token in self._added)
        return piece

    # Text to ids -------------------------------------------------------------------------------------------------

    def _encoded(self, text: str, parse_special: bool) -> list[int]:
        with _told_as(lambda error: PromptError(f"{self._path} cannot encode the text: {error}.")), self._lock:
            self._library.encode_special_tokens = not parse_special
            encoding = self._library.encode(text, add_special_tokens=False)
        ids: list[int] = encoding.ids
        if parse_special or self._never_plain.isdisjoint(ids):
            return ids
        # The library does not look for control tokens, but merges have made one: it is in the vocabulary they end in.
        plain: list[int] = []
        for token, (start, end) in zip(ids, encoding.offsets, strict=True):
            plain += self._spelled(text[start:end]) if token in self._never_plain else [token]
        return plain

    def _spelled(self, text: str) -> list[int]:
        return [token for token in self._pieces.spelled(text, self._library.token_to_id) if token not in self._control]

    def _require_known(self, token: int) -> None:
        if not 0 <= token < self._size:
            raise InvalidTokenError(f"Token {token} is not in the vocabulary, whose ids go from 0 to {self._size - 1}.")


@contextmanager
def _told_as(other: Callable[[BaseException], Exception]) -> Iterator[None]:
    """Raise what the library raises within the block as another error. It knows no narrower class than Exception, and
    what goes wrong inside it is a panic, which is not even that."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise other(error) from error
        raise


def _read(path: Path) -> Library:
    text = read_text(path)
    assert text is not None  # it was required
    with _told_as(lambda error: damaged(path, f"the `tokenizers` library does not read it ({error})")):
        library = Library.from_str(text)
    library.no_truncation()
    library.no_padding()
    return library


def _decoder(library: Library) -> dict[str, Any] | None:
    if library.decoder is None:
        return None
    stored: dict[str, Any] = json.loads(library.decoder.__getstate__())
    return stored
