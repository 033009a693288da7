"""The model's tokenizer, by llama.cpp's C functions."""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

from inference.errors import InvalidTokenError, ModelClosedError, PromptError
from inference.protocols import Tokenizer
from inference_llama_cpp.deep_stack import with_stack_for
from inference_llama_cpp.library import bindings

__all__ = ["LlamaTokenizer"]

_CONTROL = bindings.LLAMA_TOKEN_ATTR_CONTROL | bindings.LLAMA_TOKEN_ATTR_UNKNOWN
"""Attributes of the tokens whose text only `parse_special` reads as the token."""


class LlamaTokenizer(Tokenizer):
    """Implements `inference.Tokenizer` on the vocabulary of a loaded model.

    The vocabulary dies with the model. Each call into C holds a lock of its thread's own, and `close` takes them all:
    none reads freed memory, and nobody waits for another's long text.
    """

    def __init__(self, vocabulary: Any) -> None:
        self._own = threading.local()
        self._locks: weakref.WeakSet[Any] = weakref.WeakSet()
        """One of each thread that ever called."""
        self._growing = threading.Lock()
        self._handle: Any = vocabulary
        self._size: int = bindings.llama_vocab_n_tokens(vocabulary)
        self._bos = self._known(bindings.llama_vocab_bos(vocabulary))
        self._eos = self._known(bindings.llama_vocab_eos(vocabulary))
        self._bytes: dict[int, bytes] = {}
        self._ends: dict[int, bool] = {}
        self._control_texts: tuple[str, ...] | None = None

    def close(self) -> None:
        """Called before the model is freed; later calls into the vocabulary raise `ModelClosedError`."""
        self._handle = None
        with self._growing:
            locks = list(self._locks)
        for lock in locks:
            with lock:
                pass

    @property
    def vocabulary_size(self) -> int:
        return self._size

    @property
    def bos_token(self) -> int | None:
        return self._bos

    @property
    def eos_token(self) -> int | None:
        return self._eos

    def is_end(self, token: int) -> bool:
        end = self._ends.get(token)
        if end is None:
            self._require_known(token)
            with self._lock():
                end = self._ends[token] = bool(bindings.llama_vocab_is_eog(self._vocabulary, token))
        return end

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        if not isinstance(text, str):
            raise PromptError(f"`encode` takes text, got {type(text).__name__}.")
        return with_stack_for(text, lambda: self._encoded(text, add_special, parse_special))

    def _encoded(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        data = text.encode("utf-8", "surrogatepass")
        room = len(data) + 8  # no token is shorter than a byte, but for BOS, EOS and a leading space
        while True:
            tokens = (bindings.llama_token * room)()
            with self._lock():
                count = bindings.llama_tokenize(
                    self._vocabulary, data, len(data), tokens, room, add_special, parse_special
                )
            if count >= 0:
                return tokens[:count]
            room = -count

    def decode(self, tokens: Iterable[int]) -> str:
        return b"".join(map(self.token_bytes, tokens)).decode("utf-8", "replace")

    def token_bytes(self, token: int) -> bytes:
        data = self._bytes.get(token)
        if data is None:
            data = self._bytes[token] = self._piece(token, special=False)
        return data

    def control_text(self, token: int) -> str:
        return self._piece(token, special=True).decode("utf-8", "replace")

    def control_texts(self) -> Sequence[str]:
        if self._control_texts is None:
            with self._lock():
                attributes, vocabulary = bindings.llama_vocab_get_attr, self._vocabulary
                control = [token for token in range(self._size) if attributes(vocabulary, token) & _CONTROL]
            self._control_texts = tuple(filter(None, map(self.control_text, control)))
        return self._control_texts

    def _piece(self, token: int, *, special: bool) -> bytes:
        self._require_known(token)
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            with self._lock():
                length = bindings.llama_token_to_piece(self._vocabulary, token, buffer, room, 0, special)
            if length >= 0:
                return buffer.raw[:length]
            room = -length

    def _lock(self) -> threading.Lock:
        """This thread's own. `_vocabulary` is to be read when it is held."""
        try:
            lock: threading.Lock = self._own.lock
        except AttributeError:
            lock = threading.Lock()
            with self._growing:
                self._locks.add(lock)
            self._own.lock = lock
        return lock

    @property
    def _vocabulary(self) -> Any:
        if self._handle is None:
            raise ModelClosedError("The model is closed, and its tokenizer with it. Load it again to go on.")
        return self._handle

    def _require_known(self, token: int) -> None:
        if not 0 <= token < self._size:
            raise InvalidTokenError(f"Token {token} is not in the vocabulary, whose ids go from 0 to {self._size - 1}.")

    def _known(self, token: int) -> int | None:
        return token if 0 <= token < self._size else None
