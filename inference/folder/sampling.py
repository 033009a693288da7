"""The sampling defaults in generation_config.json, as options."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from inference.errors import OptionValueError
from inference.folder.documents import Document
from inference.options import GenerateOptions

__all__ = ["folder_sampling", "sampling_metadata"]

_log = logging.getLogger(__name__)
_OPTIONS = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "repeat_penalty",
}
"""The keys that have an option of ours."""
_DRAWING = ("temperature", "top_k", "top_p", "min_p")


def sampling_metadata(generation: Document) -> Mapping[str, Any]:
    """The keys about sampling and their values, as they are stored."""
    return {key: generation.values[key] for key in ("do_sample", *_OPTIONS) if generation.values.get(key) is not None}


def folder_sampling(generation: Document, context_length: int) -> GenerateOptions | None:
    """The sampling defaults, or None if there are none that we have an option for. They are hints: if they make no
    sense the model is loaded all the same, with a warning and without them.

    `transformers` draws only if `do_sample` says so, at a temperature of 1 if there is none, and looks for repetitions
    in the whole context (`context_length`). Many files give a temperature and leave `do_sample` out: they mean it.
    """
    stored = sampling_metadata(generation)
    keywords: dict[str, Any] = {_OPTIONS[key]: value for key, value in stored.items() if key in _OPTIONS}
    draws = stored.get("do_sample", any(key in stored for key in _DRAWING))
    if draws:
        keywords.setdefault("temperature", 1.0)
    else:
        keywords = {option: value for option, value in keywords.items() if option not in _DRAWING}
    if "repeat_penalty" in keywords and context_length:
        keywords["repeat_window"] = context_length
    try:
        return GenerateOptions(**keywords) if keywords else None
    except OptionValueError as error:
        _log.warning("%s: its sampling defaults are left out: %s", generation.path, error)
        return None
