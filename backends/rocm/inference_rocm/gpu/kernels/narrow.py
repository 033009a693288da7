"""Where top-k and top-p cut a row of logits, without sorting it.

What flows are gaps: how far each logit is below the row's greatest. They are never negative, so that their bits, taken
as integers, order them as their values do; these are the keys. Both filters keep the first tokens in the order of
(key, id), so that the cut is one such pair: that of the last token kept.

All blocks of the vocabulary count their tokens in BINS equal bins of gaps; the bins tell which few tokens the cut may
be among; those are listed in the order of their ids; and one program finds the cut in the list, digit by digit. All
sums are taken in an order that hangs on the vocabulary alone.
"""

from __future__ import annotations

import triton
import triton.language as tl

from inference_rocm.gpu.kernels.race import gaps, greatest
from inference_rocm.gpu.kernels.settings import INTEGERS, REALS, TOP_K, TOP_P

BINS = tl.constexpr(32)
PER_UNIT = tl.constexpr(2.0)
"""Bins in a gap of 1. What is beyond the bins is in the last."""
LAST_KEY = tl.constexpr(0x7FFFFFFF)
LEAST = tl.constexpr(1e-37)


@triton.jit
def _bin(gap):
    return tl.minimum(gap * PER_UNIT, BINS - 1.0).to(tl.int32)


@triton.jit
def _cuts(top_k, top_p, top, vocabulary):
    """Whether there is anything to do."""
    finite = (top > -float("inf")) & (top < float("inf"))
    return finite & ((top_k < vocabulary) | (top_p < 1.0))


@triton.jit
def count(
    values, slots, reals, integers, maxima, counts, weights, vocabulary,
    BLOCK: tl.constexpr, PART: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """For each block and bin, how many tokens there are, and the sum of their weights, exp(-gap); float32
    [rows, blocks, BINS]."""
    row = tl.program_id(1)
    slot = tl.load(slots + row).to(tl.int64)
    if slot < 0:
        return
    blocks = tl.num_programs(0)
    top = greatest(maxima, row, blocks, BLOCKS)
    top_k, top_p = tl.load(integers + slot * INTEGERS + TOP_K), tl.load(reals + slot * REALS + TOP_P)
    if not _cuts(top_k, top_p, top, vocabulary):
        return
    bins = tl.arange(0, BINS)
    held = tl.zeros([PART, BINS], tl.float32)
    mass = tl.zeros([PART, BINS], tl.float32)
    first = tl.program_id(0) * BLOCK
    for start in range(first, first + BLOCK, PART):
        token = start + tl.arange(0, PART)
        there = token < vocabulary
        place = values + row.to(tl.int64) * vocabulary + token
        gap = gaps(top, tl.load(place, mask=there, other=-float("inf")))
        inside = tl.where(there, _bin(gap), -1)[:, None] == bins[None, :]
        held += tl.where(inside, 1.0, 0.0)
        mass += tl.where(inside, tl.exp(-gap)[:, None], 0.0)
    at = (row * blocks + tl.program_id(0)) * BINS + bins
    tl.store(counts + at, tl.sum(held, axis=0))
    tl.store(weights + at, tl.sum(mass, axis=0))


@triton.jit
def _per_block(sums, row, blocks, BLOCKS: tl.constexpr):
    block, bins = tl.arange(0, BLOCKS), tl.arange(0, BINS)
    at = (row * blocks + block)[:, None] * BINS + bins[None, :]
    return tl.load(sums + at, mask=(block < blocks)[:, None], other=0.0)


@triton.jit
def _range(held, mass, top_k, top_p, vocabulary):
    """The first and the last bin among whose tokens both cuts are."""
    bins = tl.arange(0, BINS)
    last = tl.sum((tl.cumsum(held, axis=0) < top_k.to(tl.float32)).to(tl.int32), axis=0)
    first = last
    if top_p < 1.0:
        # What top-k leaves weighs no less than all that is before its cut's bin; and just as much as all, if it is off.
        all_kept = top_k >= vocabulary
        total = tl.sum(tl.where((bins < last) | all_kept, mass, 0.0), axis=0)
        # A GPU adds in pairs, so that sums up to bins that hold nothing may fall back by a last digit: the cut is in a
        # bin that holds something, or in the last of those.
        reached = (tl.cumsum(mass, axis=0) >= top_p * total) & (held > 0.0)
        fullest = tl.max(tl.where(held > 0.0, bins, 0), axis=0)
        nucleus = tl.min(tl.where(reached, bins, fullest), axis=0)
        first = tl.minimum(nucleus, last)
        last = tl.where(all_kept, first, last)
    return first, last


@triton.jit
def gather(
    values, slots, reals, integers, maxima, counts, weights, ranges, keys, tokens, vocabulary,
    BLOCK: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """Lists the tokens of the bins where the cuts are: keys[row] and tokens[row], in the order of their ids; and
    ranges[row] = the first of these bins and the last."""
    row = tl.program_id(1)
    slot = tl.load(slots + row).to(tl.int64)
    if slot < 0:
        return
    blocks = tl.num_programs(0)
    top = greatest(maxima, row, blocks, BLOCKS)
    top_k, top_p = tl.load(integers + slot * INTEGERS + TOP_K), tl.load(reals + slot * REALS + TOP_P)
    if not _cuts(top_k, top_p, top, vocabulary):
        return
    held = _per_block(counts, row, blocks, BLOCKS)
    mass = tl.sum(_per_block(weights, row, blocks, BLOCKS), axis=0)
    first, last = _range(tl.sum(held, axis=0), mass, top_k, top_p, vocabulary)
    if tl.program_id(0) == 0:  # another kernel might add in another order, and find another range
        tl.store(ranges + 2 * row, first)
        tl.store(ranges + 2 * row + 1, last)
    bins = tl.arange(0, BINS)
    earlier = (tl.arange(0, BLOCKS) < tl.program_id(0))[:, None] & ((bins >= first) & (bins <= last))[None, :]
    before = tl.sum(tl.sum(tl.where(earlier, held, 0.0), axis=0), axis=0).to(tl.int32)
    start = row.to(tl.int64) * vocabulary
    token = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = token < vocabulary
    gap = gaps(top, tl.load(values + start + token, mask=there, other=-float("inf")))
    listed = there & (_bin(gap) >= first) & (_bin(gap) <= last)
    place = start + before + tl.cumsum(listed.to(tl.int32), axis=0) - 1
    tl.store(keys + place, gap.to(tl.int32, bitcast=True), mask=listed)
    tl.store(tokens + place, token, mask=listed)


@triton.jit
def _weight(key):
    return tl.exp(-key.to(tl.float32, bitcast=True))


@triton.jit
def _key_at(keys, length, target, WEIGHTED: tl.constexpr, PART: tl.constexpr, BITS: tl.constexpr):
    """The least listed key such that the tokens up to it weigh `target`, > 0, or, unless WEIGHTED, number so many; and
    what of that is left for the tokens that have this very key. If all do not reach it, it is the greatest that has any
    weight. Each pass over the list finds one more digit, of BITS bits."""
    digits = tl.arange(0, 1 << BITS)
    found = 0
    for place in range(32 // BITS - 1, -1, -1):
        shift = BITS * place
        sums = tl.zeros([PART, 1 << BITS], tl.float32)
        for start in range(0, length, PART):
            at = start + tl.arange(0, PART)
            key = tl.load(keys + at, mask=at < length, other=-1)
            digit = (key >> shift) - (found << BITS)  # of another beginning, and of -1, it is no digit
            weight = _weight(key) if WEIGHTED else tl.full([PART], 1.0, tl.float32)
            sums += tl.where(digit[:, None] == digits[None, :], weight[:, None], 0.0)
        held = tl.sum(sums, axis=0)
        reached = (tl.cumsum(held, axis=0) >= target) & (held > 0.0)
        chosen = tl.min(tl.where(reached, digits, tl.max(tl.where(held > 0.0, digits, 0), axis=0)), axis=0)
        target -= tl.sum(tl.where(digits < chosen, held, 0.0), axis=0)
        found = (found << BITS) + chosen
    return found, target


@triton.jit
def _token_at(keys, tokens, length, key, rank, PART: tl.constexpr):
    """The token that is the `rank`th, from 1, of those that have this key, or the last of them if they are fewer."""
    found = 0
    before = 0
    for start in range(0, length, PART):
        at = start + tl.arange(0, PART)
        same = (tl.load(keys + at, mask=at < length, other=-1) == key).to(tl.int32)
        token = tl.load(tokens + at, mask=at < length, other=0)
        kept = (same > 0) & (before + tl.cumsum(same, axis=0) <= rank)
        found = tl.maximum(found, tl.max(tl.where(kept, token, 0), axis=0))
        before += tl.sum(same, axis=0)
    return found


@triton.jit
def _weight_below(keys, length, key, PART: tl.constexpr):
    """Of the listed tokens with lesser keys."""
    sums = tl.zeros([PART], tl.float32)
    for start in range(0, length, PART):
        at = start + tl.arange(0, PART)
        other = tl.load(keys + at, mask=at < length, other=LAST_KEY)
        sums += tl.where(other < key, _weight(other), 0.0)
    return tl.sum(sums, axis=0)


@triton.jit
def cut(
    slots, reals, integers, maxima, counts, weights, ranges, keys, tokens, last_keys, last_tokens, vocabulary, blocks,
    BLOCKS: tl.constexpr, PART: tl.constexpr, BITS: tl.constexpr,
):  # fmt: skip
    """The key and the id of the last token that both filters keep."""
    row = tl.program_id(0)
    slot = tl.load(slots + row).to(tl.int64)
    if slot < 0:
        return
    top = greatest(maxima, row, blocks, BLOCKS)
    top_k, top_p = tl.load(integers + slot * INTEGERS + TOP_K), tl.load(reals + slot * REALS + TOP_P)
    last_key, last_token = LAST_KEY, LAST_KEY
    if _cuts(top_k, top_p, top, vocabulary):
        held = tl.sum(_per_block(counts, row, blocks, BLOCKS), axis=0)
        mass = tl.sum(_per_block(weights, row, blocks, BLOCKS), axis=0)
        first, last = tl.load(ranges + 2 * row), tl.load(ranges + 2 * row + 1)
        bins = tl.arange(0, BINS)
        length = tl.sum(tl.where((bins >= first) & (bins <= last), held, 0.0), axis=0).to(tl.int32)
        keys += row.to(tl.int64) * vocabulary
        tokens += row.to(tl.int64) * vocabulary
        before = tl.sum(tl.where(bins < first, mass, 0.0), axis=0)
        total = tl.sum(mass, axis=0)
        if top_k < vocabulary:
            wanted = top_k.to(tl.float32) - tl.sum(tl.where(bins < first, held, 0.0), axis=0)
            last_key, ties = _key_at(keys, length, wanted, False, PART, BITS)
            last_token = _token_at(keys, tokens, length, last_key, ties.to(tl.int32), PART)
            total = before + _weight_below(keys, length, last_key, PART) + ties * _weight(last_key)
        if top_p < 1.0:
            wanted = tl.maximum(top_p * total - before, LEAST)
            key, left = _key_at(keys, length, wanted, True, PART, BITS)
            ties = tl.minimum(tl.ceil(left / tl.maximum(_weight(key), LEAST)), length)
            token = _token_at(keys, tokens, length, key, tl.maximum(ties, 1.0).to(tl.int32), PART)
            last_token = tl.where(
                key == last_key, tl.minimum(token, last_token), tl.where(key < last_key, token, last_token)
            )
            last_key = tl.minimum(key, last_key)
    tl.store(last_keys + row, last_key)
    tl.store(last_tokens + row, last_token)
