"""What a model is and where it runs, from what is said before its weights: the same for every backend."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from inference.options import GenerateOptions, LoadOptions
from inference.types import ModelInfo

__all__ = ["Described", "choice", "chosen_because", "model_info"]

_choice = threading.local()


@contextmanager
def chosen_because(reason: str) -> Iterator[None]:
    """Within the block, and on this thread, `model_info` says that the backend was chosen for this reason."""
    _choice.reason = reason
    try:
        yield
    finally:
        _choice.reason = ""


def choice() -> str:
    """The reason that a block around this one gives; empty outside of such."""
    return getattr(_choice, "reason", "")


class Described(Protocol):
    """What a GGUF file's `Header` and a `Folder` both say of their model. `ModelInfo` has what each means."""

    @property
    def path(self) -> Path: ...
    @property
    def name(self) -> str: ...
    @property
    def architecture(self) -> str: ...
    @property
    def quantization(self) -> str: ...
    @property
    def parameters(self) -> int: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def layers(self) -> int: ...
    @property
    def vocabulary_size(self) -> int: ...
    @property
    def train_context_length(self) -> int: ...
    @property
    def chat_template(self) -> str | None: ...
    @property
    def sampling(self) -> GenerateOptions | None: ...


def model_info(header: Described, options: LoadOptions, *, backend: str, device: str, context_length: int) -> ModelInfo:
    """`device` is the device in words, `context_length` what a sequence may hold. How long loading took is left out."""
    return ModelInfo(
        path=header.path,
        name=header.name,
        architecture=header.architecture,
        quantization=header.quantization,
        parameters=header.parameters,
        size_bytes=header.size_bytes,
        layers=header.layers,
        vocabulary_size=header.vocabulary_size,
        context_length=context_length,
        train_context_length=header.train_context_length,
        backend=backend,
        device=device,
        chat_template=header.chat_template if options.chat_template is None else options.chat_template,
        sampling=header.sampling,
        choice=choice(),
    )
