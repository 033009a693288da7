"""A request for a classification: asks the device what may follow a prompt, and samples nothing for a text."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence

from inference.engine.generation import NOT_FINITE
from inference.engine.labels import Labels, Question
from inference.engine.request import Answer, Request
from inference.errors import EngineError
from inference.options import GenerateOptions
from inference.protocols import Row, Tokenizer, TokenLogprobs
from inference.stream import Channel
from inference.types import Classification, FinishReason, Token

__all__ = ["SCORING", "Scoring"]

# Log-probabilities also keep a device from sampling in its graph, where a row's logits would not be at hand.
SCORING = GenerateOptions(max_tokens=1, seed=0, logprobs=1)


class Scoring(Request):
    """One prompt and the questions about it: one for each branching of the labels' tree, or one for the next token.

    Between questions the slot is rewound to what the paths have in common: the prompt is computed once.
    """

    __slots__ = ("_answers", "_asked", "_labels", "_logits", "_tokenizer", "_wants_logits")

    def __init__(
        self,
        prompt: Iterable[int],
        channel: Channel[Classification],
        tokenizer: Tokenizer,
        labels: Labels | None,
        *,
        wants_logits: bool,
        options: GenerateOptions = SCORING,
    ) -> None:
        super().__init__(prompt, options, channel)
        self._tokenizer = tokenizer
        self._labels = labels
        self._wants_logits = wants_logits
        self._asked = 0
        """Questions that a launched row asks."""
        self._answers: list[Sequence[float]] = []
        self._logits: array[float] | None = None

    @property
    def need(self) -> int:
        return self.prompt_length + (self._labels.longest if self._labels else 0)

    def _asking(self, chunk: Sequence[int]) -> Row:
        first = self._asked == 0
        wants_logits = first and self._wants_logits
        if self._labels is None:
            self._asked = 1
            return Row(self.slot, chunk, logits=wants_logits)
        question = self._labels.questions[self._asked]
        self._asked += 1
        if self._asked < len(self._labels.questions):
            self._turn_to(self._labels.questions[self._asked])
        return Row(self.slot, chunk, sample=False, score=question.score, logits=wants_logits)

    def _turn_to(self, question: Question) -> None:
        """Make what follows the prompt there follow it: but for the last token, it is what followed it before."""
        keep = self.prompt_length + question.depth - 1
        del self.tokens[keep:]
        self.tokens.append(question.token)
        self.length = keep + 1
        if self.fed > keep:
            self.rewind = keep

    def decode(self) -> Row | None:
        return None  # what follows a question is fed, not sampled

    def accept(self, answer: Answer) -> bool:
        scores = answer.scores
        self._logits = answer.logits or self._logits
        if self._labels is None:
            return self._accept_token(answer.token, answer.logprobs)
        assert scores is not None
        if any(map(math.isnan, scores)):
            self.end("error", EngineError(NOT_FINITE))
            return False
        self._answers.append(scores)
        if len(self._answers) < len(self._labels.questions):
            return True
        found = self._labels.logprobs(self._answers)
        self.settle()
        self.channel.hold(
            Classification(
                label=max(found, key=found.__getitem__),
                probabilities=self._labels.shares(found),
                logprobs=found,
                logits=self._logits,
            )
        )
        return False

    def _accept_token(self, token: int, logprobs: TokenLogprobs | None) -> bool:
        if token < 0 or logprobs is None:
            self.end("error", EngineError(NOT_FINITE))
            return False
        self.settle()
        text = self._tokenizer.decode([token])
        said = Token(token, text, logprobs.logprob, logprobs.top)
        self.channel.hold(Classification(token=said, logits=self._logits))
        return False

    def end(self, reason: FinishReason, error: Exception | None = None) -> None:
        if not self.finished:
            self.settle(error)
            self.channel.put(Classification(error=error or EngineError(f"The classification was {reason}.")))
