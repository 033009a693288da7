"""The divisors of the rope's frequencies that a file brings along."""

from __future__ import annotations

from math import isfinite

from inference.errors import CorruptFileError
from inference.gguf.architectures import Config
from inference.gguf.weights import Weights

__all__ = ["rope_factors"]


def rope_factors(weights: Weights, config: Config, context_length: int) -> list[float] | None:
    """One divisor for each pair of a head, for sequences of up to `context_length` tokens; None if there are none.

    Raises:
        CorruptFileError: one is no number to divide by.
    """
    part = config.rope_factors(context_length)
    if part is None:
        return None
    factors: list[float] = weights.decode(part.tensor).tolist()
    if wrong := [factor for factor in factors if not isfinite(factor) or factor == 0]:
        raise CorruptFileError(
            f"{weights.header.path} is damaged: `{part.tensor}`, by which the rope's frequencies are divided, has the "
            f"factor {wrong[0]}. Download it again."
        )
    return factors
