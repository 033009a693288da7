"""A model that takes many prompts at once, as the command line opens it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from inference.chat import ChatTemplate, encode_chat
from inference.cli.flags import with_flags
from inference.cli.opening import open_model
from inference.cli.prompts import Entry
from inference.errors import NoChatTemplateError, PromptError, UnsupportedModelError
from inference.options import LoadOptions
from inference.protocols import BatchModel, TextModel

__all__ = ["PromptEncoder", "open_batch_model", "reason"]


def open_batch_model(path: str | os.PathLike[str], options: LoadOptions) -> BatchModel:
    """`open_model`, for many prompts at once.

    Raises:
        UnsupportedModelError: the backend takes one prompt at a time.
    """
    model = open_model(path, options)
    if isinstance(model, BatchModel):
        return model
    model.close()
    raise UnsupportedModelError(
        f"Backend {model.info().backend!r} takes one prompt at a time. Choose another one with --backend."
    )


def reason(error: Exception, number: int) -> str:
    """Why a prompt failed. `number` is its place among those that the model was given, which the model names: whoever
    reads this knows the line in the file."""
    return with_flags(str(error).removeprefix(f"Prompt {number}: "))


class PromptEncoder:
    """What a line asks for, as a model takes it."""

    def __init__(self, model: TextModel, *, chat: bool, template_options: Mapping[str, Any]) -> None:
        """`chat`: a prompt is a user's message."""
        self._info = model.info()
        self._tokenizer = model.tokenizer
        self._chat = chat
        self._template_options = template_options
        self._template: ChatTemplate | None = None

    def encode(self, entry: Entry) -> str | list[int]:
        """A prompt as it is, messages as the ids of what the model's chat template makes of them.

        Raises:
            PromptError: the line is no prompt, the model has no template, or the template refuses these messages.
        """
        if entry.error is not None:
            raise PromptError(entry.error)
        messages = entry.messages
        if self._chat and isinstance(entry.prompt, str):
            messages = [{"role": "user", "content": entry.prompt}]
        if messages is not None:
            return encode_chat(self._made(), self._tokenizer, messages, self._template_options)
        assert entry.prompt is not None  # an entry has one of the three
        return entry.prompt

    def _made(self) -> ChatTemplate:
        if self._template is None:
            source = self._info.chat_template
            if source is None:
                raise NoChatTemplateError(
                    f"{self._info.path.name} carries no chat template. Pass one with --chat-template FILE, or give "
                    f"plain prompts."
                )
            self._template = ChatTemplate.of_model(source, self._tokenizer)
        return self._template
