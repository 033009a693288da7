"""One call, or one item of a batch, on its way through the engine: its tokens, how far it is, what it took."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterable, Sequence
from time import monotonic
from typing import Any, NamedTuple

from inference.options import MAX_SEED, GenerateOptions
from inference.protocols import Row, TokenLogprobs
from inference.stream import Channel
from inference.types import FinishReason, GenerateStats

__all__ = ["Answer", "Request"]


class Answer(NamedTuple):
    """What a step says to one row; see `Pending`."""

    token: int
    logprobs: TokenLogprobs | None
    scores: Sequence[float] | None
    logits: array[float] | None


class Request(ABC):
    """The state that all kinds of requests have. The engine's thread alone changes it, once it is submitted."""

    __slots__ = (
        "_first_token_at",
        "_generated",
        "_last_token_at",
        "_started_at",
        "_submitted_at",
        "cached",
        "channel",
        "deadline",
        "deferred_for",
        "failed",
        "fed",
        "finished",
        "length",
        "options",
        "prompt_length",
        "rewind",
        "scope",
        "seed",
        "slot",
        "tokens",
        "took",
    )

    def __init__(
        self, prompt: Iterable[int], options: GenerateOptions, channel: Channel[Any], scope: str | None = None
    ) -> None:
        self.tokens = array("i", prompt)
        """What its slot will hold: the prompt, and what is known to follow. Four bytes each, since many may wait."""
        self.prompt_length = len(self.tokens)
        self.length = self.prompt_length
        """How many of `tokens` are to be fed before the device goes on by itself, or before the next question."""
        self.options = options
        self.channel = channel
        self.scope = options.cache_scope if options.cache_scope is not None else scope
        self.seed = int.from_bytes(os.urandom(4)) % (MAX_SEED + 1) if options.seed is None else options.seed
        self.slot = -1
        self.fed = 0
        """How many of `tokens` the slot holds, once all launched steps are computed."""
        self.cached = 0
        """Prompt tokens that the slot held from the start."""
        self.rewind: int | None = None
        """If set: the slot must forget what it holds after this many tokens before the next row."""
        self.deferred_for: Request | None = None
        """The request that was about to compute a beginning of its prompt, and for which it was passed over, once."""
        self.finished = False
        self.failed = False
        """Whether an error ended it: then nobody knows what its slot holds."""
        self.took = GenerateStats()
        """What it took in all, once it is finished."""
        self._generated = 0
        self._submitted_at = now = monotonic()
        self._started_at = self._first_token_at = self._last_token_at = 0.0
        self.deadline = None if options.timeout is None else now + options.timeout

    @property
    def remaining(self) -> int:
        """Known tokens that are still to be fed."""
        return self.length - self.fed

    @property
    @abstractmethod
    def need(self) -> int:
        """Tokens that its slot must have room for."""

    @property
    def prefilling(self) -> bool:
        """Whether a part of its prompt is still to be fed."""
        return self.fed < self.prompt_length and not self.finished

    @property
    def prompt(self) -> Sequence[int]:
        """The prompt's tokens."""
        return self.tokens[: self.prompt_length]

    def start(self, slot: int, held: int) -> None:
        """It has a slot now, which holds its first `held` tokens."""
        self.slot = slot
        self.fed = self.cached = held
        self._started_at = monotonic()

    def prefill(self, room: int) -> Row:
        """The row that feeds up to `room` of the remaining tokens."""
        chunk = self.tokens[self.fed : min(self.fed + room, self.length)]
        self.fed += len(chunk)
        return self._asking(chunk) if self.fed == self.length else Row(self.slot, chunk, sample=False)

    def held(self) -> array[int]:
        """The tokens that its slot surely holds once all launched steps are computed."""
        return self.tokens[: self.fed if self.rewind is None else self.rewind]

    @abstractmethod
    def _asking(self, chunk: Sequence[int]) -> Row:
        """The row that feeds `chunk`, the last of the known tokens, and asks what comes after."""

    @abstractmethod
    def decode(self) -> Row | None:
        """The row that goes on from what the device sampled; None if there is nothing to launch now."""

    @abstractmethod
    def accept(self, answer: Answer) -> bool:
        """Take what a row asked for, and hold what it makes in the channel. Returns whether the request goes on."""

    @abstractmethod
    def end(self, reason: FinishReason, error: Exception | None = None) -> None:
        """End it without an answer. Ending twice does nothing."""

    def settle(self, error: Exception | None = None) -> GenerateStats:
        """It has ended: its consumer has nothing left to cancel. Returns what it took."""
        self.finished = True
        self.failed = error is not None
        self.channel.notify = None
        self.took = self.stats()
        return self.took

    def answered(self, now: float) -> None:
        """The clock of `stats`: an answer came from the device."""
        self._last_token_at = now
        if not self._first_token_at:
            self._first_token_at = now

    def stats(self) -> GenerateStats:
        """What it took until now. May be called on any thread."""
        now = monotonic()
        started = self._started_at or now
        first = self._first_token_at or now
        return GenerateStats(
            prompt_tokens=self.prompt_length,
            cached_tokens=self.cached,
            computed_tokens=max(min(self.fed, self.prompt_length) - self.cached, 0),
            generated_tokens=self._generated,
            queue_seconds=started - self._submitted_at,
            prefill_seconds=first - started if self._started_at else 0.0,
            decode_seconds=self._last_token_at - first if self._generated else 0.0,
            total_seconds=now - self._submitted_at,
        )
