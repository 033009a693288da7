"""Attention of single tokens: a token's context in shares, one program each, which are joined afterwards.

Scores are powers of two: the factor that turns products into them holds log2(e). Of each share there is kept what it
mixes of the values, without having been divided; the total that it has to be divided by; and the top score, which both
are relative to. After "Flash-Decoding for long-context inference" (Dao, Haziza, Massa, Sizov, 2023).
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LOWEST = tl.constexpr(-1e38)
"""Below every score, yet a number: nothing minus nothing would be none."""


@triton.jit
def score(product, factor, CEILING: tl.constexpr):
    """Of products of queries and keys. `CEILING`: the soft-cap x log2(e), or None. With it, the factor is such that
    cap x tanh(x) = cap - 2 cap / (1 + exp2(scaled)), which is right for any size of x."""
    scores = product * factor
    if CEILING is not None:
        scores = CEILING - 2.0 * CEILING / (tl.exp2(scores) + 1.0)
    return scores


@triton.jit
def divided(mixed, total, top, sink):
    """What an attention head gives, when all shares, and the sink's logit x log2(e) if there is one, are known. Where
    nothing was seen it is 0."""
    if sink is not None:
        above = tl.maximum(top, sink)
        fall = tl.exp2(top - above)
        mixed *= fall
        total = total * fall + tl.exp2(sink - above)
    return mixed / tl.where(total == 0.0, 1.0, total)


@triton.jit
def sink_of(sinks, heads):
    """The sinks of heads, x log2(e); None if there are none."""
    sink = None
    if sinks is not None:
        sink = tl.load(sinks + heads) * LOG2E
    return sink


@triton.jit
def _context(slots, positions, row, window):
    """A row's slot, the first position that it sees, and how many it sees: none if it is padding."""
    slot = tl.load(slots + row)
    position = tl.load(positions + row)
    first = tl.maximum(position - window + 1, 0)
    return slot, first, tl.where(slot < 0, 0, position + 1 - first)


@triton.jit
def _share_length(seen, shares, STEP: tl.constexpr):
    return tl.maximum((seen + shares * STEP - 1) // (shares * STEP), 1) * STEP


@triton.jit
def _lanes_joined(mixed, total, top):
    """Of lanes that each saw a part of the positions: `mixed` is [lanes, length], the others [lanes]."""
    above = tl.max(top, axis=0)
    fall = tl.exp2(top - above)
    return tl.sum(mixed * fall[:, None], axis=0), tl.sum(total * fall, axis=0), above


@triton.jit(do_not_specialize=["capacity", "window"], do_not_specialize_on_alignment=["slots", "positions"])
def attend_few(
    query, keys, values, slots, positions, sinks, out, mixes, tops, factor, capacity, window,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, LENGTH: tl.constexpr, PADDED: tl.constexpr, CEILING: tl.constexpr,
    STEP: tl.constexpr, TAKEN: tl.constexpr, LANES: tl.constexpr, TILES: tl.constexpr, DIRECT: tl.constexpr,
):  # fmt: skip
    """Of those that share a key, TAKEN heads, one by one. Each lane has every LANES-th position to itself, with its own
    total and top: lanes come together at the end only."""
    row, part, share = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    kv_head = part * TAKEN // GROUP
    slot, first, seen = _context(slots, positions, row, window)
    each = _share_length(seen, tl.num_programs(2), STEP)
    if not DIRECT:
        if share * each >= seen:
            return
    begin, end = first + share * each, first + tl.minimum(share * each + each, seen)
    lane = tl.arange(0, LANES)
    element = tl.arange(0, PADDED)
    there = element < LENGTH
    plane = (slot.to(tl.int64) * KV_HEADS + kv_head) * capacity * LENGTH
    keys += plane
    values += plane
    first_head = row * (KV_HEADS * GROUP) + part * TAKEN
    q = ()
    for g in tl.static_range(TAKEN):
        q += (tl.load(query + (first_head + g) * LENGTH + element, mask=there, other=0.0).to(tl.float32),)
    mixed = (tl.full((LANES, PADDED), 0.0, tl.float32),) * TAKEN
    total = (tl.full((LANES,), 0.0, tl.float32),) * TAKEN
    top = (tl.full((LANES,), LOWEST, tl.float32),) * TAKEN
    for at in range(begin, end, LANES * TILES):
        k, v = (), ()
        for tile in tl.static_range(TILES):
            # Lanes beyond the end read the last position again, which costs no branch.
            place = tl.minimum(at + tile * LANES + lane, end - 1)[:, None] * LENGTH + element[None, :]
            if PADDED == LENGTH:
                k += (tl.load(keys + place),)
                v += (tl.load(values + place),)
            else:
                k += (tl.load(keys + place, mask=there[None, :], other=0.0),)
                v += (tl.load(values + place, mask=there[None, :], other=0.0),)
        next_mixed, next_total, next_top = (), (), ()
        for g in tl.static_range(TAKEN):
            scores, highest = (), top[g]
            for tile in tl.static_range(TILES):
                found = score(tl.sum(q[g][None, :] * k[tile].to(tl.float32), axis=1), factor, CEILING)
                found = tl.where(at + tile * LANES + lane < end, found, -float("inf"))
                highest = tl.maximum(highest, found)
                scores += (found,)
            fall = tl.exp2(top[g] - highest)
            sums, weights = mixed[g] * fall[:, None], total[g] * fall
            for tile in tl.static_range(TILES):
                weight = tl.exp2(scores[tile] - highest)
                weights += weight
                sums += weight[:, None] * v[tile].to(tl.float32)
            next_mixed += (sums,)
            next_total += (weights,)
            next_top += (highest,)
        mixed, total, top = next_mixed, next_total, next_top
    for g in tl.static_range(TAKEN):
        head_mixed, head_total, head_top = _lanes_joined(mixed[g], total[g], top[g])
        if DIRECT:
            head_mixed = divided(head_mixed, head_total, head_top, sink_of(sinks, part * TAKEN + g))
            tl.store(out + (first_head + g) * LENGTH + element, head_mixed, mask=there)
        else:
            place = (first_head + g) * tl.num_programs(2) + share
            tl.store(mixes + place * LENGTH + element, head_mixed, mask=there)
            tl.store(tops + 2 * place, head_total)
            tl.store(tops + 2 * place + 1, head_top)


@triton.jit(do_not_specialize=["capacity", "window"], do_not_specialize_on_alignment=["slots", "positions"])
def attend_many(
    query, keys, values, slots, positions, sinks, out, mixes, tops, factor, capacity, window,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, LENGTH: tl.constexpr, PADDED: tl.constexpr, CEILING: tl.constexpr,
    STEP: tl.constexpr, HEADS: tl.constexpr, KEYS: tl.constexpr, TYPE: tl.constexpr, DIRECT: tl.constexpr,
):  # fmt: skip
    """Many heads share a key: they are the rows of a matrix, `HEADS` with those that pad it. `TYPE` is what is
    multiplied."""
    row, kv_head, share = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    slot, first, seen = _context(slots, positions, row, window)
    each = _share_length(seen, tl.num_programs(2), STEP)
    if not DIRECT:
        if share * each >= seen:
            return
    begin, end = first + share * each, first + tl.minimum(share * each + each, seen)
    key = tl.arange(0, KEYS)
    element = tl.arange(0, PADDED)
    there = element[None, :] < LENGTH
    head = tl.arange(0, HEADS)
    plane = (slot.to(tl.int64) * KV_HEADS + kv_head) * capacity * LENGTH
    keys += plane
    values += plane
    first_head = (row * KV_HEADS + kv_head) * GROUP
    heads_there = (head < GROUP)[:, None] & there
    q = tl.load(query + (first_head + head)[:, None] * LENGTH + element[None, :], mask=heads_there, other=0.0).to(TYPE)
    mixed = tl.full((HEADS, PADDED), 0.0, tl.float32)
    total = tl.full((HEADS,), 0.0, tl.float32)
    top = tl.full((HEADS,), LOWEST, tl.float32)
    for at in range(begin, end, KEYS):
        place = tl.minimum(at + key, end - 1)[:, None] * LENGTH + element[None, :]
        if PADDED == LENGTH:
            k, v = tl.load(keys + place), tl.load(values + place)
        else:
            k, v = tl.load(keys + place, mask=there, other=0.0), tl.load(values + place, mask=there, other=0.0)
        scores = score(tl.dot(q, tl.trans(k.to(TYPE)), input_precision="ieee"), factor, CEILING)
        scores = tl.where((at + key < end)[None, :], scores, -float("inf"))
        highest = tl.maximum(top, tl.max(scores, axis=1))
        fall = tl.exp2(top - highest)
        weights = tl.exp2(scores - highest[:, None])
        total = total * fall + tl.sum(weights, axis=1)
        mixed = tl.dot(weights.to(TYPE), v.to(TYPE), mixed * fall[:, None], input_precision="ieee")
        top = highest
    at = (first_head + head)[:, None] * LENGTH + element[None, :]
    if DIRECT:
        sink = None
        if sinks is not None:
            sink = tl.load(sinks + kv_head * GROUP + head, mask=head < GROUP, other=0.0)[:, None] * LOG2E
        tl.store(out + at, divided(mixed, total[:, None], top[:, None], sink), mask=heads_there)
    else:
        place = (first_head + head) * tl.num_programs(2) + share
        tl.store(mixes + place[:, None] * LENGTH + element[None, :], mixed, mask=heads_there)
        tl.store(tops + 2 * place, total, mask=head < GROUP)
        tl.store(tops + 2 * place + 1, top, mask=head < GROUP)


@triton.jit(do_not_specialize=["shares", "window"], do_not_specialize_on_alignment=["slots", "positions"])
def join(
    mixes, tops, slots, positions, sinks, out, shares, window,
    HEADS: tl.constexpr, LENGTH: tl.constexpr, PADDED: tl.constexpr, STEP: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """The shares of one head of one row, LANES at a time."""
    row, head = tl.program_id(0), tl.program_id(1)
    _, _, seen = _context(slots, positions, row, window)
    count = tl.cdiv(seen, _share_length(seen, shares, STEP))
    lane = tl.arange(0, LANES)
    element = tl.arange(0, PADDED)
    there = element < LENGTH
    first = (row * HEADS + head) * shares
    mixed = tl.full((LANES, PADDED), 0.0, tl.float32)
    total = tl.full((LANES,), 0.0, tl.float32)
    top = tl.full((LANES,), LOWEST, tl.float32)
    for at in range(0, count, LANES):
        some = at + lane < count
        place = first + at + lane
        part = tl.load(mixes + place[:, None] * LENGTH + element, mask=some[:, None] & there[None, :], other=0.0)
        part_total = tl.load(tops + 2 * place, mask=some, other=0.0)
        part_top = tl.load(tops + 2 * place + 1, mask=some, other=LOWEST)
        highest = tl.maximum(top, part_top)
        fall, part_fall = tl.exp2(top - highest), tl.exp2(part_top - highest)
        mixed = mixed * fall[:, None] + part * part_fall[:, None]
        total = total * fall + part_total * part_fall
        top = highest
    all_mixed, all_total, all_top = _lanes_joined(mixed, total, top)
    all_mixed = divided(all_mixed, all_total, all_top, sink_of(sinks, head))
    tl.store(out + (row * HEADS + head) * LENGTH + element, all_mixed, mask=there)
