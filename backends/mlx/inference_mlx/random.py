"""Random numbers that hang on a sequence's seed and a position alone, so that a step may be repeated or run ahead."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from inference.engine.random_words import random_word

__all__ = ["key", "log_times", "random_words"]

BELOW_ONE = 1 - 2**-24
SMALL = 2**-8
"""Up to here two terms of the series of -log(1 - x) are as exact as 1 - x itself, 1 part in 100,000."""


def key(seed: int, position: int) -> tuple[int, int]:
    """The two 32-bit words of MLX's generator for the token at `position`."""
    word = random_word(seed, position)
    return word >> 32, word & 0xFFFFFFFF


def random_words(keys: Sequence[tuple[int, int]], vocabulary: int) -> mx.array:
    """One uint32 for each key and token id, [keys, vocabulary]; a row hangs on its key alone."""
    rows = mx.vmap(lambda row: mx.random.split(row, (vocabulary + 1) // 2))(mx.array(list(keys), mx.uint32))
    return rows.reshape(len(keys), -1)[:, :vocabulary]


def log_times(words: mx.array) -> mx.array:
    """Logarithms of standard exponential variables made of random `words`, float32 of the same shape; all are finite.

    The shortest times decide a race, so they come of the smallest words, which float32 tells apart; words near the top
    all give the same long time. `log1p` would serve both ends, and takes three times as long on a CPU.
    """
    shares = mx.minimum((words.astype(mx.float32) + 0.5) * 2**-32, BELOW_ONE)
    times = mx.where(shares < SMALL, shares + 0.5 * shares * shares, -mx.log(1.0 - shares))
    return mx.log(times)
