"""A step that the device computes meanwhile."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from inference.engine.results import NO_SAMPLE
from inference.errors import EngineError
from inference.protocols import Row, TokenLogprobs
from inference.types import TokenLogprob

__all__ = ["MLXPending"]


class MLXPending:
    """Implements `inference.protocols.Pending`. All that was asked for is on its way when this is made; reading waits.

    It holds what was asked for and nothing of the KV memory: whoever held that would make the next step copy it.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows
        self._marks: list[mx.array] = []
        self._sampled: list[int] = []
        self._tokens: mx.array | None = None
        self._logprobs: dict[int, tuple[mx.array, mx.array, mx.array]] = {}
        self._scores: dict[int, mx.array] = {}
        self._logits: dict[int, mx.array] = {}

    # What the runner puts in ------------------------------------------------------------------------------------------

    def mark(self, result: mx.array) -> None:
        """Something that is there once the step has been computed."""
        self._marks.append(result)

    def sampled(self, indices: list[int], tokens: mx.array) -> None:
        """The rows that sample, and their tokens."""
        self._sampled, self._tokens = indices, tokens

    def ask_logprobs(self, index: int, logits: mx.array, token: mx.array, count: int) -> None:
        """For a row: the log-probability of its `token`, [1], and of the `count` likeliest. `logits`: [vocabulary]."""
        plain = logits - mx.logsumexp(logits)
        likeliest = mx.argpartition(-plain, min(count, plain.size) - 1)[:count]
        order = likeliest[mx.argsort(-plain[likeliest])]
        self._logprobs[index] = (plain[token], order, plain[order])

    def ask_scores(self, index: int, logits: mx.array, tokens: Sequence[int]) -> None:
        """For a row: the log-probabilities of `tokens`."""
        self._scores[index] = logits[mx.array(list(tokens))] - mx.logsumexp(logits)

    def ask_logits(self, index: int, logits: mx.array) -> None:
        """For a row: all of its logits."""
        self._logits[index] = logits

    def launch(self, *more: Any) -> None:
        """Start computing what was asked for, and `more`."""
        mx.async_eval(
            self._marks,
            [] if self._tokens is None else self._tokens,
            list(self._logprobs.values()),
            list(self._scores.values()),
            list(self._logits.values()),
            *more,
        )

    # What the engine reads --------------------------------------------------------------------------------------------

    def tokens(self) -> list[int]:
        tokens = [NO_SAMPLE] * len(self._rows)
        if self._tokens is not None:
            for index, token in zip(self._sampled, _read(self._tokens).tolist(), strict=True):
                tokens[index] = token
        _wait(self._marks)
        return tokens

    def logprobs(self) -> list[TokenLogprobs | None]:
        answers: list[TokenLogprobs | None] = [None] * len(self._rows)
        for index, (own, order, likeliest) in self._logprobs.items():
            top = zip(_read(order).tolist(), _read(likeliest).tolist(), strict=True)
            answers[index] = TokenLogprobs(_read(own).item(), tuple(TokenLogprob(*one) for one in top))
        return answers

    def scores(self) -> list[list[float] | None]:
        answers: list[list[float] | None] = [None] * len(self._rows)
        for index, scores in self._scores.items():
            answers[index] = _read(scores).tolist()
        return answers

    def logits(self) -> list[array[float] | None]:
        answers: list[array[float] | None] = [None] * len(self._rows)
        for index, logits in self._logits.items():
            answers[index] = array("f", _read(logits).tobytes())
        return answers


def _read(values: mx.array) -> np.ndarray[Any, Any]:
    """Wait for an array, and bring it to the host. numpy has no bfloat16, and none is asked for."""
    _wait([values])
    return np.array(values)


def _wait(arrays: list[mx.array]) -> None:
    try:
        mx.eval(arrays)
    except RuntimeError as error:
        raise EngineError(f"MLX failed: {error}") from error
