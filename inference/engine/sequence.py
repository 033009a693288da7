"""One request on its way through the engine: its prompt, how far it is, what it has said."""

from __future__ import annotations

import os
from collections.abc import Sequence as Tokens
from time import monotonic

from inference.engine.detokenizer import Detokenizer
from inference.engine.stopping import StopStrings
from inference.options import MAX_SEED, GenerateOptions
from inference.protocols import Tokenizer, TokenLogprobs
from inference.stream import Channel
from inference.types import Finish, FinishReason, GenerateStats, Token

__all__ = ["NO_TOKEN", "Sequence"]

NO_TOKEN = -1
"""The id of a last token that was not sampled."""


class Sequence:
    """The state of one request. The engine's thread alone changes it, once it is submitted."""

    __slots__ = (
        "_detokenizer",
        "_end_tokens",
        "_first_token_at",
        "_generated",
        "_last_token_at",
        "_started_at",
        "_stops",
        "_submitted_at",
        "_tokenizer",
        "channel",
        "deadline",
        "fed",
        "finished",
        "launched",
        "limit",
        "options",
        "prompt",
        "seed",
        "slot",
    )

    def __init__(
        self, prompt: Tokens[int], options: GenerateOptions, tokenizer: Tokenizer, context_length: int
    ) -> None:
        self.prompt = prompt
        self.options = options
        self.channel = Channel()
        self.seed = int.from_bytes(os.urandom(4)) % (MAX_SEED + 1) if options.seed is None else options.seed
        self.limit = min(options.max_tokens, context_length - len(prompt))
        """Most tokens that it may sample: what was asked for, and what the context has room for."""
        self.slot = -1
        self.fed = 0
        """Prompt tokens that a launched step takes."""
        self.launched = 0
        """Samples that were launched; those read are `_generated`."""
        self.finished = False
        self._tokenizer = tokenizer
        self._detokenizer = Detokenizer()
        self._stops = StopStrings(options.stop)
        self._end_tokens = frozenset(options.stop_tokens)
        self._generated = 0
        self._submitted_at = now = monotonic()
        self._started_at = self._first_token_at = self._last_token_at = 0.0
        self.deadline = None if options.timeout is None else now + options.timeout

    def start(self, slot: int) -> None:
        """It has a slot now."""
        self.slot = slot
        self._started_at = monotonic()

    def accept(self, token: int, logprobs: TokenLogprobs | None) -> bool:
        """Take a sampled token, and hold its text in the channel until that is flushed. Returns whether it goes on."""
        self._last_token_at = monotonic()
        if not self._generated:
            self._first_token_at = self._last_token_at
        self._generated += 1
        reason: FinishReason | None = None
        if token in self._end_tokens or (not self.options.ignore_eos and self._tokenizer.is_end(token)):
            text, reason = self._rest(), "stop"
        else:
            text, stopped = self._stops.feed(self._detokenizer.feed(self._tokenizer.token_bytes(token)))
            if stopped:
                reason = "stop"
            elif self._generated >= self.limit:
                text, reason = text + self._rest(), "length"
        if reason is not None:
            self.finished = True
        finish = Finish(reason, self._stats()) if reason is not None else None
        if logprobs is None:
            self.channel.hold(Token(token, text, finish=finish))
        else:
            self.channel.hold(Token(token, text, logprobs.logprob, logprobs.top, finish))
        return reason is None

    def end(self, reason: FinishReason, error: Exception | None = None) -> None:
        """End it without a sample. Ending twice does nothing."""
        if self.finished:
            return
        self.finished = True
        self.channel.put(Token(NO_TOKEN, self._rest(), finish=Finish(reason, self._stats(), error)))

    def _rest(self) -> str:
        """The text that is still held back: an incomplete character, the beginning of a stop string."""
        shown, stopped = self._stops.feed(self._detokenizer.flush())
        return shown if stopped else shown + self._stops.flush()

    def _stats(self) -> GenerateStats:
        now = monotonic()
        started = self._started_at or now
        first = self._first_token_at or now
        return GenerateStats(
            prompt_tokens=len(self.prompt),
            generated_tokens=self._generated,
            queue_seconds=started - self._submitted_at,
            prefill_seconds=first - started,
            decode_seconds=self._last_token_at - first if self._generated else 0.0,
            total_seconds=now - self._submitted_at,
        )
