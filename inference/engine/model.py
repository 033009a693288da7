"""`BatchModel` and `StatsModel` on an engine: what every backend's `load_model` returns."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

from inference.chat import ChatTemplate, encode_chat
from inference.engine.batch import BatchStream, ClassificationStream
from inference.engine.engine import Engine
from inference.engine.feed import Feed
from inference.engine.generation import NO_TOKEN, Generation
from inference.engine.labels import Labels
from inference.engine.prompts import Prompts
from inference.engine.scoring import SCORING, Scoring
from inference.errors import NoChatTemplateError, OptionValueError, quoted
from inference.options import GenerateOptions
from inference.protocols import BatchModel, Prompt, StatsModel, Tokenizer
from inference.stream import Channel, TokenChannel, TokenStream
from inference.types import Classification, Finish, GenerateStats, Message, ModelInfo, ModelStats, Token

__all__ = ["EngineModel"]


class EngineModel(BatchModel, StatsModel):
    """A loaded model: tokenizes and renders in the caller's thread, computes on the engine's."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        info: ModelInfo,
        *,
        cache_scope: str | None = None,
        device_utilization: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._engine = engine
        self._cache_scope = cache_scope
        self._device_utilization = device_utilization
        self._prompts = Prompts(tokenizer, engine.context_length)
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

    def generate(self, prompt: Prompt, *, options: GenerateOptions | None = None, **keywords: Any) -> TokenStream:
        wanted = GenerateOptions.merged(options, keywords)
        self._engine.require_open()
        return self._start(self._prompts.encode(prompt), wanted)

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
            raise OptionValueError(f"`template_options` must map names to values, got {quoted(template_options)}.")
        tokens = encode_chat(self._chat_template(), self._tokenizer, messages, template_options or {})
        return self._start(tokens, wanted)

    def batch_generate(
        self, prompts: Iterable[Prompt], *, options: GenerateOptions | None = None, **keywords: Any
    ) -> BatchStream:
        wanted = GenerateOptions.merged(options, keywords)
        self._engine.require_open()
        self._prompts.require_known(wanted)

        def make(prompt: Prompt, channel: Channel[Token]) -> Generation:
            tokens = self._prompts.encode(prompt)
            self._prompts.require_room(tokens)
            return self._generation(tokens, wanted, channel)

        def fail(error: Exception) -> Token:
            return Token(NO_TOKEN, "", finish=Finish("error", GenerateStats(), error))

        slots = self._engine.max_slots
        return BatchStream(Feed(self._engine, prompts, make, fail, window=2 * slots, low=slots + slots // 2), self)

    def classify(
        self,
        prompts: Iterable[Prompt],
        *,
        labels: Sequence[str] | None = None,
        return_logits: bool = False,
        cache_scope: str | None = None,
    ) -> ClassificationStream:
        options = replace(SCORING, cache_scope=self._cache_scope if cache_scope is None else cache_scope)
        self._engine.require_open()
        tree = None if labels is None else Labels(labels, self._tokenizer)
        longest = tree.longest if tree else 0

        def make(prompt: Prompt, channel: Channel[Classification]) -> Scoring:
            tokens = self._prompts.encode(prompt)
            self._prompts.require_room(tokens, longest, f", {longest} of them for the labels" if longest else "")
            return Scoring(tokens, channel, self._tokenizer, tree, wants_logits=return_logits, options=options)

        def fail(error: Exception) -> Classification:
            return Classification(error=error)

        # Many at once, sorted: prompts of one length fill a step without padding or another pass.
        slots = self._engine.max_slots
        feed = Feed(self._engine, prompts, make, fail, window=4 * slots, low=2 * slots, sort=True)
        return ClassificationStream(feed, self)

    def stats(self) -> ModelStats:
        return replace(
            self._engine.stats(), memory=self._engine.memory(), device_utilization=self._device_utilization()
        )

    def close(self) -> None:
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _start(self, tokens: Sequence[int], options: GenerateOptions) -> TokenStream:
        self._prompts.require_room(tokens)
        self._prompts.require_known(options)
        channel = TokenChannel()
        stream = TokenStream(channel, self)  # before the call is submitted: interrupted in between, it is cancelled
        self._engine.submit(self._generation(tokens, options, channel))
        return stream

    def _generation(self, tokens: Sequence[int], options: GenerateOptions, channel: Channel[Token]) -> Generation:
        return Generation(tokens, options, channel, self._tokenizer, self._engine.context_length, self._cache_scope)

    def _chat_template(self) -> ChatTemplate:
        if self._template is None:
            source = self._info.chat_template
            if source is None:
                raise NoChatTemplateError(
                    f"{self._info.path.name} carries no chat template. Pass one: load_model(..., chat_template=...), "
                    f"or use generate() with a prompt of your own."
                )
            self._template = ChatTemplate.of_model(source, self._tokenizer)
        return self._template
