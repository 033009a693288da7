"""The sampling defaults that a file carries (`general.sampling.*`), as options."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from inference.errors import OptionValueError
from inference.options import GenerateOptions

if TYPE_CHECKING:
    from inference.gguf.header import Header

__all__ = ["file_sampling"]

WHOLE_CONTEXT = -1
"""llama.cpp's `penalty_last_n` for a window over the whole context."""

_log = logging.getLogger(__name__)
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
    """The file's sampling defaults, or None if it has none that we have an option for. They are hints: a file whose
    hints make no sense is loaded all the same, with a warning and without them."""
    keywords: dict[str, Any] = {
        _OPTIONS[key]: value for key, value in header.sampling_metadata.items() if key in _OPTIONS
    }
    for option in ("top_k", "temperature"):
        if isinstance(keywords.get(option), int | float):
            keywords[option] = max(keywords[option], 0)  # llama.cpp takes any number below 1 (0) for "off" ("greedy")
    if keywords.get("repeat_window") == WHOLE_CONTEXT:
        keywords["repeat_window"] = header.train_context_length
    try:
        return GenerateOptions(**keywords) if keywords else None
    except OptionValueError as error:
        _log.warning("%s: its sampling defaults (general.sampling) are left out: %s", header.path.name, error)
        return None
