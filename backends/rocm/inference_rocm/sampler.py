"""Drawing tokens from logits, on the device that has them."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Sequence

import torch
from torch import Tensor

from inference.engine.random_words import random_word
from inference.options import GenerateOptions

__all__ = ["Sampler", "uniform"]

NUCLEUS = 512
"""Likeliest tokens that are sorted first; only if they do not hold the nucleus are all sorted."""


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that hangs on these two alone."""
    return (random_word(seed, position) >> 11) / (1 << 53)


class Sampler:
    """Bias, penalties, top-k, top-p, min-p, temperature, draw: in this order, for one sequence."""

    def __init__(self, options: GenerateOptions, seed: int, prompt: Sequence[int]) -> None:
        self._options = options
        self._seed = seed
        self._window: deque[int] = deque(prompt[-options.repeat_window :] if options.penalizes else ())
        biases = sorted(options.logit_bias.items())
        self._biased = torch.tensor([token for token, _ in biases], dtype=torch.long)
        self._biases = torch.tensor([bias for _, bias in biases], dtype=torch.float32)

    @property
    def plain(self) -> bool:
        """Whether it takes the likeliest token of the logits as they are."""
        options = self._options
        return options.temperature == 0.0 and not options.penalizes and not options.logit_bias

    def sample(self, logits: Tensor, position: int) -> int:
        """The token at `position`, after the one that these `logits`, float32 [vocabulary], belong to."""
        if not self.plain:
            logits = self._penalized(logits)
        token = int(logits.argmax()) if self._options.temperature == 0.0 else self._drawn(logits, position)
        if self._options.penalizes:
            self._window.append(token)
            if len(self._window) > self._options.repeat_window:
                self._window.popleft()
        return token

    def _penalized(self, logits: Tensor) -> Tensor:
        options = self._options
        if not options.penalizes and not options.logit_bias:
            return logits
        logits = logits.clone()
        if len(self._biased):
            logits[self._biased] += self._biases
        if options.penalizes and self._window:
            counts = Counter(self._window)
            seen = torch.tensor(list(counts))
            times = torch.tensor(list(counts.values()), dtype=torch.float32)
            values, repeat = logits[seen], options.repeat_penalty or 1.0
            values = torch.where(values > 0, values / repeat, values * repeat)
            logits[seen] = values - times * options.frequency_penalty - options.presence_penalty
        return logits

    def _drawn(self, logits: Tensor, position: int) -> int:
        kept, tokens = self._filtered(logits)
        weights = torch.softmax(kept.double() / self._options.temperature, dim=0).cumsum(0)
        drawn = torch.searchsorted(weights, uniform(self._seed, position) * weights[-1].item(), right=True)
        place = min(int(drawn), len(kept) - 1)
        return place if tokens is None else int(tokens[place])

    def _filtered(self, logits: Tensor) -> tuple[Tensor, Tensor | None]:
        """The logits that top-k, top-p and min-p leave, and their tokens; None if all are left."""
        options = self._options
        kept, tokens = logits, None
        if options.top_k:
            kept, tokens = _top(logits, options.top_k)
        if 0.0 < options.top_p < 1.0:
            if tokens is None:
                kept, tokens = self._nucleus(logits)
            else:
                kept = kept[_nucleus_of(kept, torch.logsumexp(kept, dim=0), options.top_p)]
                tokens = tokens[: len(kept)]
        if options.min_p > 0.0:
            (places,) = torch.nonzero(kept >= kept.max() + math.log(options.min_p), as_tuple=True)
            kept, tokens = kept[places], places if tokens is None else tokens[places]
        return kept, tokens

    def _nucleus(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """What top-p leaves of the whole vocabulary. Sorting all of it costs more than a small model's layers, and the
        likeliest few hundred tokens nearly always hold it."""
        total, top_p = torch.logsumexp(logits, dim=0), self._options.top_p
        for count in (NUCLEUS, len(logits)):
            kept, tokens = _top(logits, count)
            if count >= len(logits) or (kept - total).exp().sum() >= top_p:
                break
        kept = kept[_nucleus_of(kept, total, top_p)]
        return kept, tokens[: len(kept)]


def _nucleus_of(sorted_logits: Tensor, total: Tensor, top_p: float) -> slice:
    """The likeliest tokens up to that with which their probabilities sum to `top_p`."""
    shares = (sorted_logits - total).exp()
    return slice(max(1, int((shares.cumsum(0) - shares < top_p).sum())))


def _top(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    top = torch.topk(logits, min(count, len(logits)))
    return top.values, top.indices
