"""A larger context, made beside the one that computes."""

from __future__ import annotations

import threading
from typing import Any

from inference_llama_cpp.context import ContextSettings, make_context
from inference_llama_cpp.library import bindings

__all__ = ["Growth"]


class Growth:
    """Makes a context on a thread of its own: llama.cpp zeroes all KV memory, which takes seconds for gigabytes."""

    def __init__(self, model: Any, settings: ContextSettings, slots: int, length: int) -> None:
        self.slots = slots
        self.length = length
        self._context: Any = None
        self._error: Exception | None = None
        self._thread = threading.Thread(
            target=self._make, args=(model, settings), name="llama.cpp context", daemon=True
        )
        self._thread.start()

    @property
    def done(self) -> bool:
        """Whether `context` would not wait."""
        return not self._thread.is_alive()

    def context(self) -> Any:
        """The context, once it is made, to be freed with `llama_free`.

        Raises:
            LoadError: llama.cpp could not make it.
        """
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._context

    def drop(self) -> None:
        """Nobody wants it any more."""
        self._thread.join()
        if self._context is not None:
            bindings.llama_free(self._context)

    def _make(self, model: Any, settings: ContextSettings) -> None:
        try:
            self._context = make_context(model, settings, self.slots, self.length)
        except Exception as error:  # noqa: BLE001 - it is raised on the thread that asks for the context
            self._error = error
