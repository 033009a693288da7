"""Attention of many tokens of one slot: a tile of them over the keys that any of them sees, block by block.

After "FlashAttention-2" (Dao, 2023). Scores are powers of two, as in attend.py.
"""

from __future__ import annotations

import triton
import triton.language as tl

from inference_rocm.gpu.kernels.attend import LOG2E, LOWEST, divided, score


@triton.jit
def _piece(rows, at, place, LENGTH: tl.constexpr, PADDED: tl.constexpr, PIECE: tl.constexpr):
    """Elements `at` and following of heads that lie at `place`: [heads, PIECE]."""
    element = at + tl.arange(0, PIECE)
    pointers = rows + place[:, None] * LENGTH + element[None, :]
    mask, other = None, None
    if PADDED != LENGTH:
        mask, other = (element < LENGTH)[None, :], 0.0
    return tl.load(pointers, mask=mask, other=other)


@triton.jit
def _products(
    query, head_rows, q, keys, place,
    LENGTH: tl.constexpr, PADDED: tl.constexpr, PIECE: tl.constexpr, TYPE: tl.constexpr,
):  # fmt: skip
    """Of all rows with a block of keys. Only a head that is one piece is held in registers, as `q`."""
    products = tl.full((head_rows.shape[0], place.shape[0]), 0.0, tl.float32)
    if PIECE == PADDED:
        k = _piece(keys, 0, place, LENGTH, PADDED, PIECE).to(TYPE)
        products = tl.dot(q, tl.trans(k), products, input_precision="ieee")
    else:
        for at in tl.range(0, PADDED, PIECE, num_stages=1):
            some = _piece(query, at, head_rows, LENGTH, PADDED, PIECE).to(TYPE)
            k = _piece(keys, at, place, LENGTH, PADDED, PIECE).to(TYPE)
            products = tl.dot(some, tl.trans(k), products, input_precision="ieee")
    return products


@triton.jit
def _blocks(
    state, query, head_rows, q, keys, values, begin, end, lowest, last, position, factor, window,
    LENGTH: tl.constexpr, PADDED: tl.constexpr, PIECE: tl.constexpr, CEILING: tl.constexpr, WINDOWED: tl.constexpr,
    KEYS: tl.constexpr, TYPE: tl.constexpr, EDGE: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Take in the blocks from `begin` to `end`. With `EDGE` there are keys among them that some row does not see."""
    mixed, total, top = state
    for at in tl.range(begin, end, KEYS, num_stages=STAGES):
        seeing = at + tl.arange(0, KEYS)
        place = seeing
        if EDGE:
            # What no row sees is not read: a block's other places read a key that one of them sees.
            place = tl.minimum(tl.maximum(seeing, lowest), last)
        scores = score(_products(query, head_rows, q, keys, place, LENGTH, PADDED, PIECE, TYPE), factor, CEILING)
        if EDGE:
            behind = position[:, None] - seeing[None, :]
            if WINDOWED:
                # Keys that lie ahead are, without a sign, very far behind.
                scores = tl.where(behind.to(tl.uint32, bitcast=True) < window, scores, -float("inf"))
            else:
                scores = tl.where(behind >= 0, scores, -float("inf"))
        highest = tl.maximum(top, tl.max(scores, axis=1))
        fall = tl.exp2(top - highest)
        weights = tl.exp2(scores - highest[:, None])
        total = total * fall + tl.sum(weights, axis=1)
        top = highest
        next_mixed = ()
        for piece in tl.static_range(PADDED // PIECE):
            v = _piece(values, piece * PIECE, place, LENGTH, PADDED, PIECE).to(TYPE)
            next_mixed += (tl.dot(weights.to(TYPE), v, mixed[piece] * fall[:, None], input_precision="ieee"),)
        mixed = next_mixed
    return mixed, total, top


@triton.jit(do_not_specialize=["capacity", "window"])
def attend_span(
    query, keys, values, tiles, sinks, out, factor, capacity, window,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, LENGTH: tl.constexpr, PADDED: tl.constexpr, CEILING: tl.constexpr,
    WINDOWED: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, PIECE: tl.constexpr, TYPE: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """All heads of one KV head: a tile's rows are tokens x heads. `TYPE` is what is multiplied; heads are taken in
    pieces of PIECE elements."""
    kv_head = tl.program_id(0)
    tile = tiles + (tl.num_programs(1) - 1 - tl.program_id(1)) * 4  # the longest first
    first_row, tokens, slot, start = tl.load(tile), tl.load(tile + 1), tl.load(tile + 2), tl.load(tile + 3)
    row = tl.arange(0, ROWS)
    token = tl.minimum(row // GROUP, tokens - 1)
    head = kv_head * GROUP + row % GROUP
    position = start + token
    last = start + tokens - 1
    lowest = 0
    if WINDOWED:
        lowest = tl.maximum(start - window + 1, 0)
    plane = (slot.to(tl.int64) * KV_HEADS + kv_head) * capacity * LENGTH
    keys += plane
    values += plane
    first = first_row.to(tl.int64) * (KV_HEADS * GROUP * LENGTH)
    query += first
    out += first
    head_rows = token * (KV_HEADS * GROUP) + head
    q = None
    if PIECE == PADDED:
        q = _piece(query, 0, head_rows, LENGTH, PADDED, PIECE).to(TYPE)
    state = (
        (tl.full((ROWS, PIECE), 0.0, tl.float32),) * (PADDED // PIECE),
        tl.full((ROWS,), 0.0, tl.float32),
        tl.full((ROWS,), LOWEST, tl.float32),
    )
    # Blocks lie alike for all tiles: a token's sums do not hang on the tile that it is in. Those before `inner` hold
    # keys that the last row's window has left, those from `outer` on hold keys after the first row.
    begin = lowest // KEYS * KEYS
    outer = (start + 1) // KEYS * KEYS
    inner = begin
    if WINDOWED:
        inner = tl.minimum(tl.cdiv(tl.maximum(last - window + 1, 0), KEYS) * KEYS, last + 1)
        state = _blocks(
            state, query, head_rows, q, keys, values, begin, inner, lowest, last, position, factor, window,
            LENGTH, PADDED, PIECE, CEILING, WINDOWED, KEYS, TYPE, True, STAGES,
        )  # fmt: skip
    outer = tl.maximum(inner, outer)
    state = _blocks(
        state, query, head_rows, q, keys, values, inner, outer, lowest, last, position, factor, window,
        LENGTH, PADDED, PIECE, CEILING, WINDOWED, KEYS, TYPE, False, STAGES,
    )  # fmt: skip
    mixed, total, top = _blocks(
        state, query, head_rows, q, keys, values, outer, last + 1, lowest, last, position, factor, window,
        LENGTH, PADDED, PIECE, CEILING, WINDOWED, KEYS, TYPE, True, STAGES,
    )  # fmt: skip
    sink = None
    if sinks is not None:
        sink = tl.load(sinks + head)[:, None] * LOG2E
    there = (row < tokens * GROUP)[:, None]
    for piece in tl.static_range(PADDED // PIECE):
        element = (piece * PIECE + tl.arange(0, PIECE))[None, :]
        some = divided(mixed[piece], total[:, None], top[:, None], sink).to(out.dtype.element_ty)
        tl.store(out + head_rows[:, None] * LENGTH + element, some, mask=there & (element < LENGTH))
