"""A request for text: samples tokens until something ends it, and says them as `Token`s."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

from inference.engine.detokenizer import Detokenizer
from inference.engine.request import Answer, Request
from inference.engine.stopping import StopStrings
from inference.errors import EngineError
from inference.options import GenerateOptions
from inference.protocols import Row, Tokenizer
from inference.stream import Channel
from inference.types import Finish, FinishReason, Token

__all__ = ["NOT_FINITE", "NO_TOKEN", "Generation"]

NO_TOKEN = -1
"""The id of a last token that was not sampled."""
NOT_FINITE = "The model computed no finite logits: its weights or its context are damaged."


class Generation(Request):
    """One sequence."""

    __slots__ = ("_detokenizer", "_end_tokens", "_go_on", "_stops", "_tokenizer", "launched", "limit")

    def __init__(
        self,
        prompt: Iterable[int],
        options: GenerateOptions,
        channel: Channel[Token],
        tokenizer: Tokenizer,
        context_length: int,
        scope: str | None = None,
    ) -> None:
        super().__init__(prompt, options, channel, scope)
        self.limit = min(options.max_tokens, context_length - self.prompt_length)
        """Most tokens that it may sample: what was asked for, and what the context has room for."""
        self.launched = 0
        """Samples that were launched; those read are `_generated`."""
        self._tokenizer = tokenizer
        self._detokenizer = Detokenizer()
        self._stops = StopStrings(options.stop)
        self._end_tokens = frozenset(options.stop_tokens)

    @property
    def need(self) -> int:
        return self.prompt_length + self.limit

    def _asking(self, chunk: Sequence[int]) -> Row:
        self.launched = 1
        return Row(self.slot, chunk)

    def start(self, slot: int, held: int) -> None:
        super().start(slot, held)
        self._go_on = Row(slot)

    def decode(self) -> Row | None:
        if self.launched >= self.limit:
            return None
        self.launched += 1
        return self._go_on

    def held(self) -> array[int]:
        # The token sampled last is not in the slot, and of a launched step nobody knows the token yet.
        return self.tokens[: self.fed + max(self.launched - 1, 0)]

    def accept(self, answer: Answer) -> bool:
        token, logprobs, *_ = answer
        if token < 0:
            self.end("error", EngineError(NOT_FINITE))
            return False
        self._generated += 1
        self.tokens.append(token)
        reason: FinishReason | None = None
        if token in self._end_tokens or (not self.options.ignore_eos and self._tokenizer.is_end(token)):
            text, reason = self._rest(), "stop"
        else:
            text, stopped = self._stops.feed(self._detokenizer.feed(self._tokenizer.token_bytes(token)))
            if stopped:
                reason = "stop"
            elif self._generated >= self.limit:
                text, reason = text + self._rest(), "length"
        finish = None if reason is None else Finish(reason, self.settle())
        if logprobs is None:
            self.channel.hold(Token(token, text, finish=finish))
        else:
            self.channel.hold(Token(token, text, logprobs.logprob, logprobs.top, finish))
        return reason is None

    def end(self, reason: FinishReason, error: Exception | None = None) -> None:
        if not self.finished:
            self.channel.put(Token(NO_TOKEN, self._rest(), finish=Finish(reason, self.settle(error), error)))

    def _rest(self) -> str:
        """The text that is still held back: an incomplete character, the beginning of a stop string."""
        shown, stopped = self._stops.feed(self._detokenizer.flush())
        return shown if stopped else shown + self._stops.flush()
