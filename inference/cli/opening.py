"""Opening a model from the command line, with a progress bar on a terminal."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING, Any

from inference.choosing import choose
from inference.errors import NoChatTemplateError
from inference.loading import load_model, read_model
from inference.options import LoadOptions
from inference.protocols import TextModel

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["open_model", "require_chat_template"]

PATIENCE = 0.4
"""Seconds of loading before a bar appears: a small model needs none."""


def open_model(path: str | os.PathLike[str], options: LoadOptions) -> TextModel:
    """`load_model`, with a progress bar if standard error is a terminal and the backend tells how far it is."""
    if not sys.stderr.isatty():
        return load_model(path, options=options)
    described = read_model(path)
    if "progress" not in choose(described, options)[0].backend.load_options:
        return load_model(path, options=options)
    bar = LoadingBar(described.path.name)
    try:
        return load_model(path, options=replace(options, progress=bar))
    finally:
        bar.remove()


def require_chat_template(model: TextModel) -> None:
    """Refuse a model that cannot chat before anything is said.

    Raises:
        NoChatTemplateError: neither the file nor the options have a chat template.
    """
    info = model.info()
    if info.chat_template is None:
        raise NoChatTemplateError(
            f"{info.path.name} carries no chat template. Pass one with --chat-template FILE, or complete plain text: "
            f"`inference run` without --chat."
        )


class LoadingBar:
    """Draws how far the loading is, once it takes longer than a blink. Called on the thread that loads."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._started = monotonic()
        self._bar: Progress | None = None
        self._task: Any = None

    def __call__(self, share: float) -> None:
        if self._bar is None:
            if monotonic() - self._started < PATIENCE:
                return
            from rich.console import Console
            from rich.progress import Progress

            self._bar = Progress(
                console=Console(stderr=True), transient=True, redirect_stdout=False, redirect_stderr=False
            )
            self._task = self._bar.add_task(f"Loading {self._name}", total=1.0)
            self._bar.start()
        self._bar.update(self._task, completed=share)

    def remove(self) -> None:
        """Clear the line."""
        if self._bar is not None:
            self._bar.stop()
