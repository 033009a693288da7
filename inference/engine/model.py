"""`TextModel` on an engine: what every backend's `load_model` returns."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

from inference.chat import ChatTemplate, encode_chat
from inference.engine.engine import Engine
from inference.engine.sequence import Sequence as EngineSequence
from inference.errors import (
    EmptyPromptError,
    InvalidTokenError,
    NoChatTemplateError,
    OptionValueError,
    PromptError,
    PromptTooLongError,
)
from inference.options import GenerateOptions
from inference.protocols import TextModel, Tokenizer
from inference.stream import TokenStream
from inference.types import Message, ModelInfo

__all__ = ["EngineModel"]


class EngineModel(TextModel):
    """A loaded model: tokenizes and renders in the caller's thread, computes on the engine's."""

    def __init__(self, engine: Engine, tokenizer: Tokenizer, info: ModelInfo) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._info = info
        self._template: ChatTemplate | None = None
        # A model that nobody holds is closed, but not waited for: a finalizer may run on any thread, at any point.
        weakref.finalize(self, engine.stop).atexit = False

    @property
    def model_type(self) -> str:
        return self._info.architecture

    @property
    def tokenizer(self) -> Tokenizer:
        return self._tokenizer

    def info(self) -> ModelInfo:
        return self._info

    def generate(
        self, prompt: str | Sequence[int], *, options: GenerateOptions | None = None, **keywords: Any
    ) -> TokenStream:
        wanted = GenerateOptions.merged(options, keywords)
        self._engine.require_open()
        if isinstance(prompt, str):
            if not prompt:
                raise EmptyPromptError("The prompt is empty. Give some text, or the id of the BOS token.")
            tokens: Sequence[int] = self._tokenizer.encode(prompt, parse_special=True)
        else:
            tokens = self._checked(prompt)
        return self._start(tokens, wanted)

    def chat(
        self,
        messages: Iterable[Message | Mapping[str, Any]],
        *,
        options: GenerateOptions | None = None,
        template_options: Mapping[str, Any] | None = None,
        **keywords: Any,
    ) -> TokenStream:
        wanted = GenerateOptions.merged(options, keywords)
        self._engine.require_open()
        if not isinstance(template_options, Mapping | None):
            raise OptionValueError(f"`template_options` must map names to values, got {template_options!r}.")
        tokens = encode_chat(self._chat_template(), self._tokenizer, messages, template_options or {})
        return self._start(tokens, wanted)

    def close(self) -> None:
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _start(self, tokens: Sequence[int], options: GenerateOptions) -> TokenStream:
        room = self._engine.context_length
        if not tokens:
            raise EmptyPromptError("The prompt has no tokens. Give some text, or the id of the BOS token.")
        if len(tokens) >= room:
            raise PromptTooLongError(
                f"The prompt has {len(tokens)} tokens, and the context holds {room}, one of them to be generated. "
                f"Shorten the prompt, or load the model with a larger `context_length`."
            )
        for option, ids in (("stop_tokens", options.stop_tokens), ("logit_bias", options.logit_bias)):
            for token in ids:
                self._require_known(token, f"`{option}`")
        forbidden = sum(bias == -math.inf for bias in options.logit_bias.values())
        if forbidden == self._tokenizer.vocabulary_size:
            raise OptionValueError("`logit_bias` forbids every token of the vocabulary.")
        sequence = EngineSequence(tokens, options, self._tokenizer, room)
        self._engine.submit(sequence)
        return TokenStream(sequence.channel, self)

    def _checked(self, prompt: Sequence[int]) -> list[int]:
        if not isinstance(prompt, Iterable) or isinstance(prompt, bytes | bytearray | Mapping | set):
            raise PromptError(f"The prompt must be text or a sequence of token ids, got {type(prompt).__name__}.")
        tokens = list(prompt)
        for position, token in enumerate(tokens):
            if isinstance(token, bool) or not isinstance(token, int):
                raise InvalidTokenError(f"The prompt's item {position} is {token!r}, not a token id.")
            self._require_known(token, f"the prompt, position {position}")
        return tokens

    def _require_known(self, token: int, where: str) -> None:
        size = self._tokenizer.vocabulary_size
        if not 0 <= token < size:
            raise InvalidTokenError(
                f"Token {token} in {where} is not in the vocabulary, whose ids go from 0 to {size - 1}."
            )

    def _chat_template(self) -> ChatTemplate:
        if self._template is None:
            source = self._info.chat_template
            if source is None:
                raise NoChatTemplateError(
                    f"{self._info.path.name} carries no chat template. Pass one: load_model(..., chat_template=...), "
                    f"or use generate() with a prompt of your own."
                )
            self._template = ChatTemplate(
                source, bos_token=self._text(self._tokenizer.bos_token), eos_token=self._text(self._tokenizer.eos_token)
            )
        return self._template

    def _text(self, token: int | None) -> str:
        return "" if token is None else self._tokenizer.control_text(token)
