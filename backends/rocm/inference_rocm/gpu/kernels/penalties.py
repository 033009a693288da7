"""A row's logits with its slot's biases and penalties, a block of the vocabulary at a time."""

from __future__ import annotations

import triton
import triton.language as tl

from inference_rocm.gpu.kernels.settings import BIASES, FREQUENCY, INTEGERS, PRESENCE, REALS, REPEAT, WINDOW


@triton.jit
def adjusted(
    logits, token, vocabulary, slot, position, reals, integers, biased, biases, room, history, context_length,
    BLOCK: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    """The logits of the BLOCK tokens `token`, float32; -inf beyond the vocabulary, and +inf for what is no number."""
    value = tl.load(logits + token, mask=token < vocabulary, other=-float("inf"))
    count = tl.load(integers + slot * INTEGERS + BIASES).to(tl.int32)
    if count > 0:
        value += _bias(token, biased + slot * room, biases + slot * room, count)
    window = tl.load(integers + slot * INTEGERS + WINDOW).to(tl.int32)
    if window > 0:
        first = tl.maximum(position - window, 0)
        times = _times_seen(token, history + slot * context_length, first, position, BLOCK, SPAN)
        value = tl.where(times > 0, _penalized(value, times, reals + slot * REALS), value)
    return tl.where(value != value, float("inf"), value)


@triton.jit
def _bias(token, biased, biases, count):
    """What is added to each token's logit: `biased` holds `count` tokens in order, and is searched by halves."""
    below = tl.zeros_like(token)
    step = 1
    while 2 * step <= count:
        step *= 2
    while step > 0:
        upto = below + step
        there = upto <= count
        less = tl.load(biased + upto - 1, mask=there, other=0) < token
        below = tl.where(there & less, upto, below)
        step //= 2
    there = below < count
    there &= tl.load(biased + below, mask=there, other=0) == token
    return tl.load(biases + below, mask=there, other=0.0)


@triton.jit
def _times_seen(token, history, first, end, BLOCK: tl.constexpr, SPAN: tl.constexpr):
    """How often each token is in history[first : end]."""
    times = tl.zeros_like(token)
    start = tl.min(token, axis=0)
    for span in range(first, end, SPAN):
        place = span + tl.arange(0, SPAN)
        seen = tl.load(history + place, mask=place < end, other=-1) - start
        times += tl.histogram(seen, BLOCK, mask=(place < end) & (seen >= 0) & (seen < BLOCK))
    return times


@triton.jit
def _penalized(value, times, reals):
    repeat = tl.load(reals + REPEAT)
    less = tl.fma(times.to(tl.float32), tl.load(reals + FREQUENCY), tl.load(reals + PRESENCE))
    return tl.where(value > 0, value / repeat, value * repeat) - less
