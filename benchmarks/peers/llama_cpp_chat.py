"""The least that a chat's next turn costs with llama.cpp: keep what is computed, and decode what is new."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from benchmarks.peers.llama_cpp_bare import BareSession, reason_unavailable
from inference.measuring import GREEDY, Settings

__all__ = ["BareChatSession", "LlamaCppChat"]

ROLES = (b"user", b"assistant")


@dataclass(frozen=True, slots=True)
class LlamaCppChat:
    """The C API by ctypes, template and all. What it takes grows with the history as attention does."""

    name: ClassVar[str] = "llama_decode of the new tokens"
    ours: ClassVar[bool] = False
    packages: ClassVar[Sequence[str]] = ("llama-cpp-python",)

    def reason_unavailable(self) -> str | None:
        return reason_unavailable()

    def load_chat(self, model: Path, settings: Settings) -> BareChatSession:
        return BareChatSession(model, settings)


class BareChatSession(BareSession):
    """A model, and a context that holds one chat."""

    def __init__(self, path: Path, settings: Settings) -> None:
        super().__init__(path, settings)
        self._template = self._library.llama_model_chat_template(self._model, None)
        self._batch_size = settings.batch_size
        self._held: list[int] = []
        self._scope = ""

    def chat(self, turns: Sequence[str], tokens: int, scope: str) -> Iterator[object]:
        prompt = self.encode(self._rendered(turns), special=True)
        kept = _shared(self._held, prompt) if scope == self._scope else 0
        kept = min(kept, len(prompt) - 1)  # the last token's logits are wanted
        library, context = self._library, self._context
        library.llama_memory_seq_rm(library.llama_get_memory(context), 0, kept, -1)
        self._scope, self._held = scope, prompt[:kept]
        chain = self._chain(GREEDY)
        try:
            feed = prompt[kept:]
            for _ in range(tokens):
                self._feed(feed)
                token = library.llama_sampler_sample(chain, context, -1)
                if library.llama_vocab_is_eog(self._vocabulary, token):
                    return
                yield self.text([token])
                feed = [token]
        finally:
            library.llama_sampler_free(chain)

    def _feed(self, tokens: Sequence[int]) -> None:
        for begin in range(0, len(tokens), self._batch_size):
            part = tokens[begin : begin + self._batch_size]
            ids = (self._library.llama_token * len(part))(*part)
            if self._library.llama_decode(self._context, self._library.llama_batch_get_one(ids, len(part))) != 0:
                raise RuntimeError("llama_decode failed")
            self._held += part

    def _rendered(self, turns: Sequence[str]) -> str:
        library = self._library
        messages = (library.llama_chat_message * len(turns))(
            *[library.llama_chat_message(ROLES[number % 2], text.encode()) for number, text in enumerate(turns)]
        )
        room = 1000 + 2 * sum(len(text.encode()) for text in turns)
        buffer = ctypes.create_string_buffer(room)
        size = library.llama_chat_apply_template(self._template, messages, len(turns), True, buffer, room)
        if not 0 <= size <= room:
            raise RuntimeError("llama.cpp cannot render the file's chat template")
        return buffer.raw[:size].decode()


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two sequences have in common from their beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))
