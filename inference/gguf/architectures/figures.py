"""Hyper-parameters within the bounds of what can be computed: a damaged file may hold any number."""

from __future__ import annotations

from inference.gguf.header import Header
from inference.gguf.unsupported import unsupported

__all__ = ["real", "whole"]

LARGEST = 1e30
"""No model comes near it, and both it and its inverse are numbers that float32 holds."""


def whole(header: Header, name: str, default: int | None = None, *, least: int = 0) -> int:
    """The architecture's own whole number `name`, `default` if the file does not give it.

    Raises:
        UnsupportedModelError: it is below `least`.
        CorruptFileError: it is missing and there is no default, or is of another type.
    """
    key = header.architecture_key(name)
    value = header.integer(key, default)
    if value < least:
        raise unsupported(header.path, f"`{key}` = {value}, where at least {least} must be")
    return value


def real(header: Header, name: str, default: float | None = None, *, above: float | None = None) -> float:
    """The architecture's own number `name`, `default` if the file does not give it. It is 0 or more, neither huge nor
    tiny, so that it can be divided by if it is not 0; with `above` it is more than that.

    Raises:
        UnsupportedModelError: it is beyond these bounds, or NaN.
        CorruptFileError: it is missing and there is no default, or is of another type.
    """
    key = header.architecture_key(name)
    value = header.real(key, default)
    sound = 1 / LARGEST <= value <= LARGEST and (above is None or value > above)
    if not sound and (value != 0 or above is not None):
        wanted = "0 or a positive number" if above is None else f"a number above {above:g}"
        raise unsupported(header.path, f"`{key}` = {value:g}, where {wanted} must be, up to {LARGEST:g}")
    return value
