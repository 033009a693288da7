"""Drawing one token from each row of logits: top-k, top-p, min-p, temperature, and the draw.

The draw is a race. Each token that the filters keep takes an exponentially distributed time, with its probability as
the rate; the first to arrive is drawn, and that is each one as often as its probability says. Nothing has to be summed
over the vocabulary for it, and a token's time hangs on its id: it is the same whatever the filters keep.

What flows are gaps: how far each logit is below the row's greatest. They are never negative, so their bits order them
as their values do; none overflows; and float32 is at its finest where the likely tokens are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlx.core as mx

from inference.options import GenerateOptions
from inference_mlx.random import log_times, random_words

__all__ = ["Draw", "Way", "column", "way_of"]

BLOCK = 1024
"""64-bit keys that one threadgroup sorts on Metal; to sort more takes many passes over all of them."""
RUN = 512
"""Numbers that are added up one by one: over the whole vocabulary, float32 would lose a thousandth of the sum."""


@dataclass(frozen=True, slots=True)
class Draw:
    """How one row draws."""

    options: GenerateOptions
    key: tuple[int, int]
    """Of the random numbers."""


Way = Callable[[mx.array, Sequence[Draw]], mx.array]
"""From logits, float32 [rows, vocabulary], to tokens, uint32 [rows]."""


def way_of(options: GenerateOptions, vocabulary: int) -> Way:
    """How rows with these options draw. Rows of one way are drawn together."""
    if options.temperature == 0.0 or options.top_k == 1:
        return _likeliest
    if 0 < options.top_k < vocabulary:
        return _from_top
    return _from_nucleus if _has_nucleus(options) else _from_all


def column(values: Sequence[float], dtype: mx.Dtype = mx.float32) -> mx.array:
    """One number for each row, [rows, 1]."""
    return mx.array(list(values), dtype)[:, None]


def _likeliest(logits: mx.array, _: Sequence[Draw]) -> mx.array:
    return mx.argmax(logits, axis=-1)


def _from_all(logits: mx.array, draws: Sequence[Draw]) -> mx.array:
    gaps = _gaps(logits)
    times = _times(gaps, random_words([draw.key for draw in draws], logits.shape[-1]), draws)
    if any(draw.options.min_p for draw in draws):
        times = mx.where(_near(gaps, draws), times, math.inf)
    return mx.argmin(times, axis=-1)


def _from_top(logits: mx.array, draws: Sequence[Draw]) -> mx.array:
    # A key is a gap above its token's id: equal gaps come in the order of the ids, so that which of them are kept
    # hangs neither on how the sort goes nor on how many are taken for the other rows.
    rows, vocabulary = logits.shape
    ids = mx.broadcast_to(mx.arange(vocabulary, dtype=mx.uint32), logits.shape)
    keys = mx.stack([ids, _gaps(logits).view(mx.uint32)], axis=-1).view(mx.int64).squeeze(-1)
    least = _least(keys, max(draw.options.top_k for draw in draws))
    words = least.view(mx.uint32).reshape(rows, -1, 2)
    return _first(words[..., 0], words[..., 1].view(mx.float32), vocabulary, draws)


def _from_nucleus(logits: mx.array, draws: Sequence[Draw]) -> mx.array:
    gaps = _gaps(logits)
    ids = mx.argsort(gaps.view(mx.uint32), axis=-1)  # is stable; and sorts integers sooner
    return _first(ids, mx.take_along_axis(gaps, ids, axis=-1), logits.shape[-1], draws)


def _first(ids: mx.array, gaps: mx.array, vocabulary: int, draws: Sequence[Draw]) -> mx.array:
    """The token that each row draws of its likeliest `ids`, [rows, count], in the order of their `gaps`."""
    words = random_words([draw.key for draw in draws], vocabulary)
    times = _times(gaps, mx.take_along_axis(words, ids, axis=-1), draws)
    for kept in _filters(gaps, draws):
        times = mx.where(kept, times, math.inf)
    first = mx.argmin(times, axis=-1, keepdims=True)
    return mx.take_along_axis(ids, first, axis=-1).squeeze(-1)


def _filters(gaps: mx.array, draws: Sequence[Draw]) -> list[mx.array]:
    """What each filter that some row wants keeps of sorted `gaps`, [rows, count]. What all keep is the beginning of a
    row; where rounding leaves nothing of it, the first token is meant."""
    count = gaps.shape[-1]
    kept = []
    if any(0 < draw.options.top_k < count for draw in draws):
        top = column([draw.options.top_k for draw in draws], mx.int32)
        kept.append(mx.arange(count) < top)
    if any(_has_nucleus(draw.options) for draw in draws):
        shares = mx.exp(-gaps)
        shares = mx.where(kept[0], shares, 0.0) if kept else shares
        before, total = _sums(shares)
        wanted = [draw.options.top_p if _has_nucleus(draw.options) else math.inf for draw in draws]
        kept.append(before < column(wanted) * total)
    if any(draw.options.min_p for draw in draws):
        kept.append(_near(gaps, draws))
    return kept


def _sums(shares: mx.array) -> tuple[mx.array, mx.array]:
    """For each of `shares`, [rows, count], the sum of those before it; and the sum of all, [rows, 1]."""
    rows, count = shares.shape
    if count <= RUN:
        before = mx.cumsum(shares, axis=-1, inclusive=False)
        return before, before[:, -1:] + shares[:, -1:]
    runs = -(-count // RUN)
    padded = mx.pad(shares, [(0, 0), (0, runs * RUN - count)])
    inside, totals = _sums(padded.reshape(rows * runs, RUN))
    outside, total = _sums(totals.reshape(rows, runs))
    before = inside.reshape(rows, runs, RUN) + outside[..., None]
    return before.reshape(rows, -1)[:, :count], total


def _has_nucleus(options: GenerateOptions) -> bool:
    return 0.0 < options.top_p < 1.0


def _gaps(logits: mx.array) -> mx.array:
    return mx.max(logits, axis=-1, keepdims=True) - logits


def _near(gaps: mx.array, draws: Sequence[Draw]) -> mx.array:
    """The tokens that min-p keeps."""
    return gaps <= column([-math.log(draw.options.min_p) if draw.options.min_p else math.inf for draw in draws])


def _times(gaps: mx.array, words: mx.array, draws: Sequence[Draw]) -> mx.array:
    """Logarithms of the times at which tokens arrive, less what is the same for all tokens of a row."""
    return gaps / column([draw.options.temperature for draw in draws]) + log_times(words)


def _least(keys: mx.array, count: int) -> mx.array:
    """The `count` least of `keys`, int64 [rows, keys], in order. While there are many keys and few are wanted, each
    block gives its own least ones: the wanted ones are among them."""
    rows, size = keys.shape
    while size > BLOCK >= 4 * count:
        blocks = -(-size // BLOCK)
        keys = mx.pad(keys, [(0, 0), (0, blocks * BLOCK - size)], constant_values=mx.array(2**63 - 1, mx.int64))
        keys = mx.partition(keys.reshape(rows, blocks, BLOCK), count - 1, axis=-1)[..., :count].reshape(rows, -1)
        size = blocks * count
    return mx.sort(mx.partition(keys, count - 1, axis=-1)[:, :count], axis=-1)
