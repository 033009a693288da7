"""The sampling defaults that a file carries (`general.sampling.*`), as options."""

from __future__ import annotations

from typing import Any

from inference.errors import CorruptFileError, OptionValueError
from inference.gguf.reader import Header
from inference.options import GenerateOptions

__all__ = ["file_sampling"]

_OPTIONS = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_last_n": "repeat_window",
    "penalty_repeat": "repeat_penalty",
}
"""The file's keys that have an option of ours; the others (mirostat, xtc, the order) are shown by `info` alone."""


def file_sampling(header: Header) -> GenerateOptions | None:
    """The file's sampling defaults, or None if it has none that we have an option for.

    Raises:
        CorruptFileError: a value is out of range.
    """
    keywords: dict[str, Any] = {
        _OPTIONS[key]: value for key, value in header.sampling_metadata.items() if key in _OPTIONS
    }
    if not keywords:
        return None
    try:
        return GenerateOptions(**keywords)
    except OptionValueError as error:
        raise CorruptFileError(f"{header.path}: general.sampling: {error}") from error
