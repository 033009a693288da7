"""Small numbers, several to a byte or a word."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["as_bytes", "six_bits", "spread"]


def spread(packed: NDArray[np.uint8], bits: int, place: int = 0) -> NDArray[np.uint8]:
    """The numbers of `bits` bits (1, 2 or 4) in the bytes of `packed`, each in a byte of its own, from bit `place` on.

    packed [..., width] gives a new [..., 8 / bits, width]: ggml keeps the first `width` numbers of a run in the lowest
    bits of its bytes, the next ones in the bits above, and so on. `width` is a multiple of 4.
    """
    *outer, width = packed.shape
    run = f"V{width}"  # moved as one item, since numpy is slow at starting short inner loops
    planes = np.empty((*outer, 8 // bits, width), np.uint8)
    runs = planes.view(run)[..., 0]
    words = np.ascontiguousarray(packed.view(run)).reshape(-1).view(np.uint32)  # uint8 itself shifts left slowly
    for plane in range(8 // bits):
        runs[..., plane] = _shifted(words, bits * plane - place).view(run).reshape(outer)
    planes &= np.uint8(((1 << bits) - 1) << place)  # takes away what came from the neighbours in the word
    return planes


def six_bits(low: NDArray[Any], low_shift: int, high: NDArray[Any], high_shift: int) -> NDArray[Any]:
    """Four numbers of six bits in each 32-bit word: four bits of `low` below two of `high`, which the shifts (to the
    right; to the left where negative) bring to the places where they belong."""
    joined: NDArray[Any] = _shifted(low, low_shift) & np.uint32(0x0F0F0F0F)
    joined |= _shifted(high, high_shift) & np.uint32(0x30303030)
    return joined


def as_bytes(*words: NDArray[Any]) -> NDArray[np.uint8]:
    """Words [n] side by side, as [n, bytes]."""
    return np.stack(words, axis=1).view(np.uint8)


def _shifted(words: NDArray[Any], count: int) -> NDArray[Any]:
    shifted: NDArray[Any] = words >> np.uint32(count) if count >= 0 else words << np.uint32(-count)
    return shifted
