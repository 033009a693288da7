"""One `load_model` that runs a language model file at full speed on whatever machine it meets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inference.errors import InferenceError
    from inference.loading import load_model
    from inference.options import GenerateOptions, LoadOptions
    from inference.protocols import Backend, BatchModel, StatsModel, TextModel, Tokenizer
    from inference.registry import default_backend, get_backend, list_backends, register
    from inference.stream import TokenStream
    from inference.types import (
        Classification,
        Finish,
        GenerateStats,
        MemoryUse,
        Message,
        ModelInfo,
        ModelStats,
        Token,
        TokenLogprob,
    )

__all__ = [
    "Backend",
    "BatchModel",
    "Classification",
    "Finish",
    "GenerateOptions",
    "GenerateStats",
    "InferenceError",
    "LoadOptions",
    "MemoryUse",
    "Message",
    "ModelInfo",
    "ModelStats",
    "StatsModel",
    "TextModel",
    "Token",
    "TokenLogprob",
    "TokenStream",
    "Tokenizer",
    "default_backend",
    "get_backend",
    "list_backends",
    "load_model",
    "register",
]

_ROOMS = ("loading", "errors", "options", "types", "stream", "registry", "protocols")


def __getattr__(name: str) -> Any:
    """A public name is imported when it is first used, so that a program pays for what it touches."""
    if name in __all__:
        from importlib import import_module

        for room in _ROOMS:
            module = import_module(f"inference.{room}")
            if name in module.__all__:
                value = globals()[name] = getattr(module, name)
                return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
