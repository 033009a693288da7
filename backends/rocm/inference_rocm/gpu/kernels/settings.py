"""Where a slot's settings for sampling stand: columns of a table of float32 and of one of int64, [slots, columns]."""

from __future__ import annotations

import triton.language as tl

REALS = tl.constexpr(7)
SHARPNESS = tl.constexpr(0)
"""1 / temperature; 1 where the likeliest token is taken."""
NOISE = tl.constexpr(1)
"""1 where tokens are drawn, 0 where the likeliest is taken."""
TOP_P = tl.constexpr(2)
"""1 keeps all."""
REACH = tl.constexpr(3)
"""How far below the greatest a logit may be for min-p: infinite keeps all."""
REPEAT = tl.constexpr(4)
FREQUENCY = tl.constexpr(5)
PRESENCE = tl.constexpr(6)

INTEGERS = tl.constexpr(4)
SEED = tl.constexpr(0)
TOP_K = tl.constexpr(1)
"""The vocabulary's size keeps all."""
WINDOW = tl.constexpr(2)
"""Tokens that penalties see; 0 where there are none."""
BIASES = tl.constexpr(3)
"""How many there are."""
