"""Drawing a token from a row of logits: a race over all blocks of the vocabulary, and then among their winners.

Each token that the filters keep takes an exponentially distributed time, with its probability as the rate; the first to
arrive is drawn, and that is each one as often as its probability says. Nothing is summed over the vocabulary, and a
token's time hangs on its own logit, its id, the sequence's seed and the position alone. Times are kept as logarithms,
and a block's are reckoned from its own likeliest token: float32 is finest near zero.
"""

from __future__ import annotations

import triton
import triton.language as tl

from inference_rocm.gpu.kernels.penalties import adjusted
from inference_rocm.gpu.kernels.settings import INTEGERS, NOISE, REACH, REALS, SEED, SHARPNESS

STEP = tl.constexpr(0x9E3779B97F4A7C15)
SMALL = tl.constexpr(2**-8)
"""Up to here two terms of the series of -log(1 - x) are as exact as 1 - x itself."""
BELOW_ONE = tl.constexpr(1 - 2**-24)
LARGEST = tl.constexpr(3.4028234663852886e38)
"""Of float32."""


# Random numbers -------------------------------------------------------------------------------------------------------


@triton.jit
def _mixed(state):
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB
    return state ^ (state >> 31)


@triton.jit
def random_word(seed, position):
    """The uint64 of `inference.engine.random_words`."""
    return _mixed(_mixed(seed.to(tl.uint64) + STEP) + position.to(tl.uint64) * STEP)


@triton.jit
def random_words(word, first, BLOCK: tl.constexpr):
    """A uint32 for each of the BLOCK tokens from `first`, which four divides: Philox keyed by `word`, whose four
    numbers go to four tokens."""
    a, b, c, d = tl.randint4x(word, first // 4 + tl.arange(0, BLOCK // 4))
    return tl.reshape(tl.join(tl.join(a, c), tl.join(b, d)), [BLOCK])


@triton.jit
def log_times(words):
    """Logarithms of standard exponential variables made of random `words`, float32; all are finite.

    The shortest times decide a race, so they come of the smallest words, which float32 tells apart; words near the top
    all give the same long time.
    """
    share = tl.minimum((words.to(tl.float32) + 0.5) * 2**-32, BELOW_ONE)
    return tl.log(tl.where(share < SMALL, tl.fma(0.5 * share, share, share), -tl.log(1.0 - share)))


# Gaps -----------------------------------------------------------------------------------------------------------------


@triton.jit
def greatest(maxima, row, blocks, BLOCKS: tl.constexpr):
    """Of all the row's logits."""
    block = tl.arange(0, BLOCKS)
    return tl.max(tl.load(maxima + row * blocks + block, mask=block < blocks, other=-float("inf")), axis=0)


@triton.jit
def gaps(top, value):
    """How far below `top` each value is, without a sign even where that is 0. What is -inf is infinitely far from any
    `top`."""
    return tl.abs(tl.minimum(tl.maximum(top, -LARGEST), LARGEST) - value)


# The race in a block --------------------------------------------------------------------------------------------------


@triton.jit
def _times(value, top, first, slot, position, reals, integers, BLOCK: tl.constexpr):
    """When the tokens of a block arrive, whose greatest logit is `top`. Without noise that is their distance to it."""
    gap = gaps(top, value)
    words = random_words(random_word(tl.load(integers + slot * INTEGERS + SEED), position), first, BLOCK)
    noise = tl.where(tl.load(reals + slot * REALS + NOISE) > 0.0, log_times(words), 0.0)
    return tl.fma(gap, tl.load(reals + slot * REALS + SHARPNESS), noise)  # rounds once, wherever it is inlined


@triton.jit
def _finish_line(time, first, times, tokens, at):
    least, place = tl.min(time, axis=0, return_indices=True)
    tl.store(times + at, least)
    tl.store(tokens + at, first + place)


@triton.jit
def greedy(logits, stride, slots, maxima, times, tokens, vocabulary, BLOCK: tl.constexpr):
    """Each block's greatest logit and the first token that has it."""
    row = tl.program_id(1)
    if tl.load(slots + row) < 0:
        return
    first = tl.program_id(0) * BLOCK
    token = first + tl.arange(0, BLOCK)
    value = tl.load(logits + row.to(tl.int64) * stride + token, mask=token < vocabulary, other=-float("inf"))
    value = tl.where(value != value, float("inf"), value)
    top, place = tl.max(value, axis=0, return_indices=True)
    at = row * tl.num_programs(0) + tl.program_id(0)
    tl.store(maxima + at, top)
    tl.store(times + at, 0.0)
    tl.store(tokens + at, first + place)


@triton.jit
def draw(
    logits, stride, slots, positions, reals, integers, biased, biases, room, history, context_length,
    maxima, times, tokens, vocabulary, BLOCK: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    """The race of each block, where no filter takes part."""
    row = tl.program_id(1)
    slot = tl.load(slots + row).to(tl.int64)
    if slot < 0:
        return
    position = tl.load(positions + row)
    first = tl.program_id(0) * BLOCK
    value = adjusted(
        logits + row.to(tl.int64) * stride, first + tl.arange(0, BLOCK), vocabulary, slot, position, reals, integers,
        biased, biases, room, history, context_length, BLOCK, SPAN,
    )  # fmt: skip
    top = tl.max(value, axis=0)
    at = row * tl.num_programs(0) + tl.program_id(0)
    tl.store(maxima + at, top)
    time = _times(value, top, first, slot, position, reals, integers, BLOCK)
    _finish_line(time, first, times, tokens, at)


@triton.jit
def adjust(
    logits, stride, slots, positions, reals, integers, biased, biases, room, history, context_length,
    values, maxima, vocabulary, BLOCK: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    """values[row] = the row's logits with biases and penalties; and each block's greatest."""
    row = tl.program_id(1)
    slot = tl.load(slots + row).to(tl.int64)
    if slot < 0:
        return
    token = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = adjusted(
        logits + row.to(tl.int64) * stride, token, vocabulary, slot, tl.load(positions + row), reals, integers,
        biased, biases, room, history, context_length, BLOCK, SPAN,
    )  # fmt: skip
    tl.store(values + row.to(tl.int64) * vocabulary + token, value, mask=token < vocabulary)
    tl.store(maxima + row * tl.num_programs(0) + tl.program_id(0), tl.max(value, axis=0))


@triton.jit
def race(
    values, slots, positions, reals, integers, maxima, last_keys, last_tokens, times, tokens, vocabulary,
    BLOCK: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """The race of each block among the tokens that come no later than (last_keys[row], last_tokens[row]) in the order
    of their gaps and ids, and that are in min-p's reach."""
    row = tl.program_id(1)
    slot = tl.load(slots + row).to(tl.int64)
    if slot < 0:
        return
    blocks = tl.num_programs(0)
    first = tl.program_id(0) * BLOCK
    token = first + tl.arange(0, BLOCK)
    place = values + row.to(tl.int64) * vocabulary + token
    value = tl.load(place, mask=token < vocabulary, other=-float("inf"))
    gap = gaps(greatest(maxima, row, blocks, BLOCKS), value)
    key, last_key = gap.to(tl.int32, bitcast=True), tl.load(last_keys + row)
    kept = (key < last_key) | ((key == last_key) & (token <= tl.load(last_tokens + row)))
    kept &= gap <= tl.load(reals + slot * REALS + REACH)
    at = row * blocks + tl.program_id(0)
    time = _times(value, tl.load(maxima + at), first, slot, tl.load(positions + row), reals, integers, BLOCK)
    _finish_line(tl.where(kept, time, float("inf")), first, times, tokens, at)


# Among the blocks -----------------------------------------------------------------------------------------------------


@triton.jit
def finish(
    slots, positions, reals, maxima, times, tokens, out, last, history, context_length, blocks, BLOCKS: tl.constexpr
):
    """out[row] = last[slot] = history[slot, position] = the token that arrives first of all blocks' first; or -1, 0 and
    0 where the greatest logit is not finite."""
    row = tl.program_id(0)
    slot = tl.load(slots + row).to(tl.int64)
    if slot < 0:
        return
    block = tl.arange(0, BLOCKS)
    there = block < blocks
    top = tl.load(maxima + row * blocks + block, mask=there, other=-float("inf"))
    time = tl.load(times + row * blocks + block, mask=there, other=float("inf"))
    most = tl.max(top, axis=0)
    place = tl.argmin(tl.fma(gaps(most, top), tl.load(reals + slot * REALS + SHARPNESS), time), axis=0)
    finite = (most > -float("inf")) & (most < float("inf"))
    token = tl.load(tokens + row * blocks + tl.where(finite, place, 0))
    tl.store(out + row, tl.where(finite, token, -1))
    token = tl.where(finite, token, 0)
    tl.store(last + slot, token)
    position = tl.load(positions + row)
    tl.store(history + slot * context_length + position, token, mask=position < context_length)
