"""Heads on their way to attention: normalised, turned, and keys and values put into their places."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _piece(at, element, mask):
    return tl.load(at + element, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _weights(query_norm, key_norm, is_query, element, there):
    """Of each head's own norm: [heads, elements]."""
    of_query = tl.load(query_norm + element, mask=there, other=0.0)
    of_key = tl.load(key_norm + element, mask=there, other=0.0)
    return tl.where(is_query, of_query[None, :], of_key[None, :])


@triton.jit
def _put(query, keys, values, heads, element, mask, is_query, is_key, is_value):
    tl.store(query + element, heads.to(query.dtype.element_ty), mask=mask & is_query)
    tl.store(keys + element, heads.to(keys.dtype.element_ty), mask=mask & is_key)
    tl.store(values + element, heads.to(values.dtype.element_ty), mask=mask & is_value)


@triton.jit(do_not_specialize=["capacity"], do_not_specialize_on_alignment=["slots", "positions"])
def place_heads(
    together, query, keys, values, slots, positions, cos, sin, query_norm, key_norm, epsilon, capacity,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, LENGTH: tl.constexpr, HALF: tl.constexpr, HALF_PADDED: tl.constexpr,
    REST_PADDED: tl.constexpr, STRIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A block of one token's heads: queries, then keys, then values. The first 2 x HALF elements of a head turn in
    pairs, i with i + HALF; the rest, REST_PADDED with padding, do not."""
    token = tl.program_id(0)
    head = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK))[:, None]
    slot, position = tl.load(slots + token), tl.load(positions + token)
    there = head < HEADS + 2 * KV_HEADS
    is_query = head < HEADS
    is_key = (head >= HEADS) & (head < HEADS + KV_HEADS) & (slot >= 0)
    is_value = (head >= HEADS + KV_HEADS) & there & (slot >= 0)
    turns = head < HEADS + KV_HEADS

    source = together + token.to(tl.int64) * STRIDE + head * LENGTH
    to_query = query + token.to(tl.int64) * (HEADS * LENGTH) + head * LENGTH
    plane = slot.to(tl.int64) * KV_HEADS * capacity + position
    kv_head = (head - HEADS) % KV_HEADS
    place = (plane + kv_head.to(tl.int64) * capacity) * LENGTH
    to_keys, to_values = keys + place, values + place

    pair = tl.arange(0, HALF_PADDED)
    pairs_there = pair < HALF
    rest = 2 * HALF + tl.arange(0, REST_PADDED)
    rest_there = rest < LENGTH
    TURNING: tl.constexpr = HALF > 0
    RESTING: tl.constexpr = 2 * HALF < LENGTH
    squares = tl.zeros((BLOCK,), tl.float32)
    if TURNING:
        one = _piece(source, pair[None, :], there & pairs_there[None, :])
        other = _piece(source, HALF + pair[None, :], there & pairs_there[None, :])
        squares += tl.sum(one * one + other * other, axis=1)
    if RESTING:
        still = _piece(source, rest[None, :], there & rest_there[None, :])
        squares += tl.sum(still * still, axis=1)
    if query_norm is not None:
        share = tl.rsqrt(squares / LENGTH + epsilon)[:, None]
        if TURNING:
            weight = _weights(query_norm, key_norm, is_query, pair, pairs_there)
            one = tl.where(turns, one * share * weight, one)
            weight = _weights(query_norm, key_norm, is_query, HALF + pair, pairs_there)
            other = tl.where(turns, other * share * weight, other)
        if RESTING:
            weight = _weights(query_norm, key_norm, is_query, rest, rest_there)
            still = tl.where(turns, still * share * weight, still)
    if TURNING:
        c = tl.load(cos + position * HALF + pair, mask=pairs_there, other=0.0)[None, :]
        s = tl.load(sin + position * HALF + pair, mask=pairs_there, other=0.0)[None, :]
        turned = tl.where(turns, one * c - other * s, one)
        other = tl.where(turns, other * c + one * s, other)
        _put(to_query, to_keys, to_values, turned, pair[None, :], pairs_there[None, :], is_query, is_key, is_value)
        other_at = HALF + pair[None, :]
        _put(to_query, to_keys, to_values, other, other_at, pairs_there[None, :], is_query, is_key, is_value)
    if RESTING:
        _put(to_query, to_keys, to_values, still, rest[None, :], rest_there[None, :], is_query, is_key, is_value)
