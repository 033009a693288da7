"""A step that the GPU computes meanwhile."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isnan

import torch
from torch import Tensor

from inference.engine.results import NO_SAMPLE
from inference.errors import EngineError
from inference.protocols import TokenLogprobs
from inference.types import TokenLogprob
from inference_rocm.gpu.device import Device
from inference_rocm.gpu.transfer import Arrival, fetched, sent

__all__ = ["GPUPending"]


@dataclass(frozen=True, slots=True)
class _Likeliest:
    """Log-probabilities of the sampled token and of the likeliest ones."""

    values: Tensor
    """float32 [1 + count]."""
    tokens: Tensor
    """int64 [count]."""


@dataclass(slots=True)
class GPUPending:
    """Implements `inference.protocols.Pending`. All that was asked for is on its way when `launched` was called."""

    device: Device
    rows: int
    _sampled: list[tuple[list[int], Tensor]] = field(default_factory=list)
    _likeliest: dict[int, _Likeliest] = field(default_factory=dict)
    _scores: dict[int, Tensor] = field(default_factory=dict)
    _logits: dict[int, Tensor] = field(default_factory=dict)
    _arrival: Arrival | None = None

    # What the runner puts in ------------------------------------------------------------------------------------------

    def sampled(self, indices: list[int], tokens: Tensor) -> None:
        """The tokens of these rows are the first of `tokens`, int32 on the device; -1 in the place of a row that does
        not sample."""
        self._sampled.append((indices, fetched(tokens, self.device)))

    def ask_logprobs(self, index: int, logits: Tensor, token: Tensor, count: int) -> None:
        """For a row: the log-probability of its `token`, [1], and of the `count` likeliest. `logits`: [vocabulary]."""
        plain = torch.log_softmax(logits, dim=-1)
        top = torch.topk(plain, min(count, len(plain)))
        own = plain.gather(0, token.long().clamp(min=0))
        self._likeliest[index] = _Likeliest(
            fetched(torch.cat((own, top.values)), self.device), fetched(top.indices, self.device)
        )

    def ask_scores(self, index: int, logits: Tensor, tokens: Sequence[int]) -> None:
        """For a row: the log-probabilities of `tokens`."""
        self._scores[index] = fetched(
            torch.log_softmax(logits, dim=-1).gather(0, sent(tokens, self.device).long()), self.device
        )

    def ask_logits(self, index: int, logits: Tensor) -> None:
        """For a row: all of them."""
        self._logits[index] = fetched(logits, self.device)

    def launched(self) -> GPUPending:
        """Nothing more will be asked for."""
        self._arrival = Arrival(self.device)
        return self

    # What the engine reads --------------------------------------------------------------------------------------------

    def tokens(self) -> list[int]:
        self._wait()
        tokens = [NO_SAMPLE] * self.rows
        for indices, ids in self._sampled:
            for index, token in zip(indices, ids[: len(indices)].tolist(), strict=True):
                tokens[index] = token
        return tokens

    def logprobs(self) -> list[TokenLogprobs | None]:
        self._wait()
        found: list[TokenLogprobs | None] = [None] * self.rows
        for index, likeliest in self._likeliest.items():
            own, *values = likeliest.values.tolist()
            if isnan(own):  # nothing was drawn of logits that are not numbers
                continue
            found[index] = TokenLogprobs(own, tuple(map(TokenLogprob, likeliest.tokens.tolist(), values)))
        return found

    def scores(self) -> list[list[float] | None]:
        self._wait()
        found: list[list[float] | None] = [None] * self.rows
        for index, scores in self._scores.items():
            found[index] = scores.tolist()
        return found

    def logits(self) -> list[array[float] | None]:
        self._wait()
        found: list[array[float] | None] = [None] * self.rows
        for index, logits in self._logits.items():
            found[index] = array("f", logits.numpy().tobytes())
        return found

    def _wait(self) -> None:
        assert self._arrival is not None
        try:
            self._arrival.wait()
        except RuntimeError as error:
            raise EngineError(f"The GPU failed: {error}") from error
