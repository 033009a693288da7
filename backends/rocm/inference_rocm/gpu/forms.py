"""The form in which the GPU's kernels find each block format: planes, of bits as the file has them.

A unit is 32 weights of a row that lie side by side. A plane holds four integers for each unit, each of eight fields:
field f of integer j belongs to weight 4 f + j, so that a lane which loads a unit's integers meets its activations in
runs of four. (Eight fields of bytes would be more than a lane loads at once: one plane has the first four, one the
others.) Scales lie in a plane of their own, and where a format has scales of scales, these in one more.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FORMS", "UNIT", "Form", "bytes_per_weight"]

UNIT = 32
BLOCK = 256
"""Weights that share a scale of scales."""


@dataclass(frozen=True, slots=True)
class Form:
    """How the quantised weights of one block format lie in memory."""

    low: int
    """Bits of a field of the first plane: the lower bits of a weight's number."""
    high: int = 0
    """Bits of a field of the second plane, which come above those, or belong to other fields where the first has bytes
    (then 8); 0 if there is none."""
    group: int = UNIT
    """Weights that share a scale: a unit, or half of one."""
    scale_bytes: int = 2
    """Of a unit's scales, and of its offsets if it has any."""
    super_bytes: int = 0
    """Of the scales of 256 weights' scales; 0 if there are none."""
    shifted: bool = True
    """Whether a weight of number 0 is anything but 0.0: by an offset, or since numbers are counted from the middle."""

    @property
    def bytes_per_weight(self) -> float:
        bits = self.low if self.low == 8 else self.low + self.high
        return bits / 8 + self.scale_bytes / UNIT + self.super_bytes / BLOCK


FORMS = {
    "Q8_0": Form(8, 8),
    "Q4_0": Form(4),
    "Q4_1": Form(4, scale_bytes=4),
    "Q5_0": Form(4, 1),
    "Q5_1": Form(4, 1, scale_bytes=4),
    "Q2_K": Form(2, group=16, super_bytes=4),
    "Q3_K": Form(2, 1, group=16, super_bytes=2),
    "Q4_K": Form(4, super_bytes=4),
    "Q5_K": Form(4, 1, super_bytes=4),
    "Q6_K": Form(4, 2, group=16, super_bytes=2),
    "IQ4_NL": Form(4, shifted=False),
    "IQ4_XS": Form(4, scale_bytes=1, super_bytes=2, shifted=False),
    "MXFP4": Form(4, scale_bytes=1, shifted=False),
}
"""By block format. Its scales are decoded by the function of its name in kernels/decode.py."""

_PLAIN_BYTES = {"F32": 4.0, "F16": 2.0, "BF16": 2.0}


def bytes_per_weight(block_format: str) -> float:
    """What one weight takes on the GPU.

    Raises:
        KeyError: the format is none that is decoded here.
    """
    form = FORMS.get(block_format)
    return _PLAIN_BYTES[block_format] if form is None else form.bytes_per_weight
