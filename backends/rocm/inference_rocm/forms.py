"""The form in memory that each quantised block format becomes."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PACKED", "PackedForm"]


@dataclass(frozen=True, slots=True)
class PackedForm:
    """Codes in groups, each with a scale, and perhaps an offset, in half precision."""

    bits: int
    """Of a code in memory."""
    group: int
    """Weights that share a scale."""
    has_offsets: bool = False

    @property
    def bytes_per_weight(self) -> float:
        return self.bits / 8 + (2 + 2 * self.has_offsets) / self.group


PACKED = {
    "Q4_0": PackedForm(4, 32),
    "Q4_1": PackedForm(4, 32, True),
    "Q5_0": PackedForm(5, 32),
    "Q5_1": PackedForm(5, 32, True),
    "Q8_0": PackedForm(8, 32),
    "Q2_K": PackedForm(2, 16, True),
    "Q3_K": PackedForm(4, 16),
    "Q4_K": PackedForm(4, 32, True),
    "Q5_K": PackedForm(5, 32, True),
    "Q6_K": PackedForm(6, 16),
    "IQ4_NL": PackedForm(4, 32),
    "IQ4_XS": PackedForm(4, 32),
    "MXFP4": PackedForm(4, 32),
}
"""The forms that the CPU's kernels multiply, by block format; each has a function in cpu/linear.c."""
