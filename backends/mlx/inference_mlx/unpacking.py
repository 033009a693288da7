"""The bits of ggml's block formats, taken apart by MLX on its device.

`inference.gguf.blocks` says the same in numpy, and is what this is tested against. Layouts and values: ggml-common.h,
`block_q4_0` and so on; ggml-quants.c, `dequantize_row_q4_0` and so on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import mlx.core as mx
import numpy as np

from inference.gguf.blocks import GroupedLayout

__all__ = ["Blocks", "Unpacked", "unpack"]

_TYPES = {"<f2": mx.float16, "<u2": mx.uint16, "<u4": mx.uint32, "|u1": mx.uint8, "|i1": mx.int8}
_WORDS = {1: mx.uint8, 2: mx.uint16, 4: mx.uint32, 8: mx.uint64}


@dataclass(frozen=True, slots=True, eq=False)
class Unpacked:
    """Quantised weights of n blocks: scale x (code - zero) + offset."""

    codes: mx.array
    """uint8 [n, elements], counted from 0."""
    scales: mx.array
    """[n, groups], of 16 elements in Q2_K and Q6_K and of 32 in all others: float16 or float32, whichever holds them
    exactly; MXFP4's exponents as uint8."""
    offsets: mx.array | None
    """As `scales`; None in formats without them."""
    zero: int
    """The code of 0.0 where there are no offsets."""


class Blocks:
    """Blocks on the device, whose fields have the names that numpy's layout gives them."""

    def __init__(self, data: mx.array, layout: GroupedLayout) -> None:
        """`data`: uint8, whole blocks one after the other."""
        self.layout = layout
        self._data = data.reshape(-1)

    def __getitem__(self, name: str) -> mx.array:
        """The field of every block: [n, ...] in the field's shape and type."""
        fields = self.layout.fields.fields
        assert fields is not None
        field, offset = fields[name][:2]
        size = self.layout.fields.itemsize
        width = math.gcd(size, offset, field.itemsize, 8)  # the wider the words, the faster they are gathered
        words = self._data.view(_WORDS[width]).reshape(-1, size // width)
        columns = mx.contiguous(words[:, offset // width : (offset + field.itemsize) // width])
        return columns.view(_TYPES[field.base.str]).reshape(-1, *field.shape)


def unpack(data: mx.array, layout: GroupedLayout) -> Unpacked:
    """The weights in `data`, uint8 with whole blocks, row after row. Nothing is computed yet."""
    blocks = Blocks(data, layout)
    codes, scales, offsets = _UNPACK[layout.name](blocks)
    zero = 0 if layout.has_offsets else _ZERO.get(layout.name, -layout.code_range[0])
    return Unpacked(codes.reshape(-1, layout.elements), scales, offsets, zero)


_ZERO = {"Q3_K": 128, "IQ4_NL": 128, "IQ4_XS": 128}
"""The zeros of formats whose codes are made here."""

_Fields = tuple[mx.array, mx.array, mx.array | None]
"""Codes in the order of their elements, in any shape that has the blocks first; scales; offsets."""


def _spread(packed: mx.array, bits: int, place: int = 0) -> mx.array:
    """The numbers of `bits` bits in the bytes of `packed`, each in a byte of its own, from bit `place` on: uint8
    [..., width] gives [..., 8 / bits, width]. See `inference.gguf.blocks.bits.spread`."""
    width = _WORDS[math.gcd(packed.shape[-1], 8)]
    words, mask = packed.view(width), _repeated(((1 << bits) - 1) << place, width)
    planes = [_shifted(words, bits * plane - place) & mask for plane in range(8 // bits)]
    return mx.stack(planes, axis=-2).view(mx.uint8)


def _shifted(words: mx.array, count: int) -> mx.array:
    return words >> count if count > 0 else words << -count if count else words


def _repeated(byte: int, dtype: mx.Dtype) -> mx.array:
    return mx.array(np.frombuffer(bytes([byte]) * dtype.size, np.uint8)).view(dtype)


def _uint64(value: int) -> mx.array:
    return mx.array(np.array(value, np.uint64))  # MLX itself takes no larger Python numbers than int64 has


def _bits(packed: mx.array, place: int) -> mx.array:
    """Every bit of a byte in a byte of its own, at bit `place`: uint8 [..., width] gives [..., 8 x width]."""
    copies = packed.astype(mx.uint64) * _uint64(0x0101010101010101)
    chosen = copies & _uint64(0x8040201008040201)  # byte i keeps bit i
    carried = chosen + _uint64(0x00406070787C7E7F)  # which goes up to the byte's bit 7
    return ((carried >> (7 - place)) & _repeated(1 << place, mx.uint64)).view(mx.uint8)


def _singles(halves: mx.array) -> mx.array:
    return halves.reshape(-1, 1)


def _q4(blocks: Blocks) -> _Fields:
    return _spread(blocks["qs"], 4), _singles(blocks["d"]), _offsets(blocks)


def _q5(blocks: Blocks) -> _Fields:
    codes = _spread(blocks["qs"], 4).reshape(-1, 32) | _bits(blocks["qh"], 4)
    return codes, _singles(blocks["d"]), _offsets(blocks)


def _q8(blocks: Blocks) -> _Fields:
    words = blocks["qs"].view(mx.uint64)
    return (words ^ _repeated(0x80, mx.uint64)).view(mx.uint8), _singles(blocks["d"]), None


def _offsets(blocks: Blocks) -> mx.array | None:
    return _singles(blocks["m"]) if blocks.layout.has_offsets else None


def _q2_k(blocks: Blocks) -> _Fields:
    scales = blocks["scales"]
    d, dmin = (_singles(blocks[name]).astype(mx.float32) for name in ("d", "dmin"))
    return _spread(blocks["qs"], 2), d * (scales & 15), -dmin * (scales >> 4)


def _q3_k(blocks: Blocks) -> _Fields:
    words = blocks["scales"]
    first, second, high = (words[:, i] for i in range(3))
    six = mx.stack(
        [
            _six_bits(first, 0, high, -4),
            _six_bits(second, 0, high, -2),
            _six_bits(first, 4, high, 0),
            _six_bits(second, 4, high, 2),
        ],
        axis=1,
    ).view(mx.uint8)
    codes = _spread(blocks["qs"], 2).reshape(-1, 256) | _spread(blocks["hmask"], 1, place=2).reshape(-1, 256)
    # A weight is d times a whole number of -124 to 128: eight bits, if they count down from the greatest.
    products = (codes.reshape(-1, 16, 16) - 4) * (six.reshape(-1, 16, 1) - 32)  # modulo 256
    return 128 - products, mx.broadcast_to(-_singles(blocks["d"]), (len(codes), 8)), None


def _q4_k(blocks: Blocks) -> _Fields:
    return _spread(blocks["qs"], 4), *_eight_groups(blocks)


def _q5_k(blocks: Blocks) -> _Fields:
    codes = _spread(blocks["qs"], 4).reshape(-1, 256) | _spread(blocks["qh"], 1, place=4).reshape(-1, 256)
    return codes, *_eight_groups(blocks)


def _eight_groups(blocks: Blocks) -> tuple[mx.array, mx.array]:
    """Scales and offsets of six bits each: see `inference.gguf.blocks.k_quants`."""
    words = blocks["scales"]
    scales, minima, last = (words[:, i] for i in range(3))
    low = _repeated(0x3F, mx.uint32)
    six = [
        mx.stack([own & low, _six_bits(last, shift, own, 2)], axis=1).view(mx.uint8)
        for own, shift in ((scales, 0), (minima, 4))
    ]
    d, dmin = (_singles(blocks[name]).astype(mx.float32) for name in ("d", "dmin"))
    return d * six[0], -(dmin * six[1])


def _six_bits(low: mx.array, low_shift: int, high: mx.array, high_shift: int) -> mx.array:
    """Four numbers in each word: four bits of `low` below two of `high`."""
    return (_shifted(low, low_shift) & _repeated(0x0F, mx.uint32)) | (
        _shifted(high, high_shift) & _repeated(0x30, mx.uint32)
    )


def _q6_k(blocks: Blocks) -> _Fields:
    codes = _spread(blocks["ql"], 4).reshape(-1, 256) | _spread(blocks["qh"], 2, place=4).reshape(-1, 256)
    return codes, _singles(blocks["d"]).astype(mx.float32) * blocks["scales"], None


def _iq4_nl(blocks: Blocks) -> _Fields:
    return _translated(blocks), _singles(blocks["d"]), None


def _iq4_xs(blocks: Blocks) -> _Fields:
    low = _spread(blocks["scales_l"].reshape(-1, 4, 1), 4).reshape(-1, 8)
    high = (blocks["scales_h"].reshape(-1, 1) >> mx.arange(0, 16, 2, dtype=mx.uint16)) & 3
    six = (low + 16 * high).astype(mx.float32) - 32
    return _translated(blocks), _singles(blocks["d"]).astype(mx.float32) * six, None


def _translated(blocks: Blocks) -> mx.array:
    """The codes of a table: signed bytes, around 128."""
    codebook = blocks.layout.codebook
    assert codebook is not None
    return mx.take(mx.array([code + 128 for code in codebook], mx.uint8), _spread(blocks["qs"], 4))


def _mxfp4(blocks: Blocks) -> _Fields:
    """MLX has the same 4-bit floats. Exponent 255 is no number in the specification; ggml reads it as 2 to the 128,
    where MLX makes 0 x inf of zeros."""
    return _spread(blocks["qs"], 4), mx.minimum(_singles(blocks["e"]), mx.array(254, mx.uint8)), None


_UNPACK: Mapping[str, Callable[[Blocks], _Fields]] = MappingProxyType(
    {
        "Q4_0": _q4,
        "Q4_1": _q4,
        "Q5_0": _q5,
        "Q5_1": _q5,
        "Q8_0": _q8,
        "Q2_K": _q2_k,
        "Q3_K": _q3_k,
        "Q4_K": _q4_k,
        "Q5_K": _q5_k,
        "Q6_K": _q6_k,
        "IQ4_NL": _iq4_nl,
        "IQ4_XS": _iq4_xs,
        "MXFP4": _mxfp4,
    }
)
