"""What sampling means, in numpy and float64: the definition that every backend's sampler is compared with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.options import GenerateOptions

Floats = NDArray[np.float64]


def adjusted(logits: Sequence[float], options: GenerateOptions, context: Sequence[int] = ()) -> Floats:
    """`logits` after biases and penalties; `context` is all tokens before, the prompt's first."""
    values = np.array(logits, np.float64)
    for token, bias in options.logit_bias.items():
        values[token] += bias
    repeat = options.repeat_penalty or 1.0
    window = context[-options.repeat_window :] if options.repeat_window else ()
    for token, times in Counter(window).items():
        values[token] = values[token] / repeat if values[token] > 0 else values[token] * repeat
        values[token] -= times * options.frequency_penalty + options.presence_penalty
    return values


def kept(values: Floats, options: GenerateOptions, *, slack: float = 0.0) -> list[int]:
    """The tokens that top-k, then top-p of what is left, then min-p keep of adjusted logits. The likeliest come first,
    equal ones in the order of their ids. With `slack`, also those that rounding may let in; with a negative one, only
    those that it cannot throw out."""
    order = list(np.argsort(-values, kind="stable"))
    if options.top_k:
        order = order[: options.top_k]
    likeliest = values[order[0]]
    if 0.0 < options.top_p < 1.0:
        shares = _shares(values[order])
        before = np.cumsum(shares) - shares
        order = [token for token, sum_before in zip(order, before, strict=True) if sum_before < options.top_p + slack]
    if options.min_p:
        order = [token for token in order if values[token] >= likeliest + np.log(options.min_p) - slack]
    return [int(token) for token in order] or [int(np.argmax(values))]


def distribution(logits: Sequence[float], options: GenerateOptions, context: Sequence[int] = ()) -> Floats:
    """How likely each token is drawn."""
    values = adjusted(logits, options, context)
    tokens = kept(values, options)
    likely = np.zeros(len(values))
    if options.temperature == 0.0:
        likely[np.argmax(values)] = 1.0
    else:
        likely[tokens] = _shares(values[tokens] / options.temperature)
    return likely


def surprise(counts: NDArray[Any], likely: NDArray[Any]) -> float:
    """How far the counts of what was drawn are from their distribution: chi-square, in standard deviations above its
    mean. Infinite if something was drawn that cannot be."""
    found, possible = counts.astype(np.float64), likely > 0
    if found[~possible].any():
        return float("inf")
    expected = found.sum() * likely[possible]
    freedom = max(int(possible.sum()) - 1, 1)
    square = ((found[possible] - expected) ** 2 / expected).sum()
    return float((square - freedom) / np.sqrt(2 * freedom))


def _shares(values: Floats) -> Floats:
    shares = np.exp(values - values.max())
    return np.asarray(shares / shares.sum())
