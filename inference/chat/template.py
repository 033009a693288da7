"""The model's own chat template: messages become text, and that text becomes token ids.

A template comes out of a model file: it is a stranger's program. It runs in a process of its own (`rendering`), which
may take so much memory and so long, and sees copies made of plain data.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self, TypeGuard

from inference.chat.rendering import render
from inference.errors import ChatTemplateError, quoted
from inference.types import Message
from inference.worker import NoInterpreterError, WorkerDiedError, WorkerError, Workers, WorkerSlowError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from inference.protocols import Tokenizer

__all__ = ["ChatTemplate"]

SECONDS = 5.0
"""That a template may take. The largest ones take milliseconds."""
MEMORY = 2**30
"""Bytes that it may map, Python included, on Linux."""
MAX_SOURCE = 2**20
"""Characters of a template's source."""
MAX_TAGS = 1000
"""Different texts in it that look like tokens: each is looked up in the vocabulary."""
MAX_DEPTH = 100
"""How many lists and mappings may be in one another in a message: far fewer than Python's own limit of calls."""

_log = logging.getLogger(__name__)
renderers = Workers("inference.chat.rendering:render", most=4, memory=MEMORY)


class ChatTemplate:
    """A chat template in Jinja. It may be rendered on any thread.

    `bos_token` and `eos_token` are texts, for templates that write them.
    """

    def __init__(self, source: str, *, bos_token: str = "", eos_token: str = "") -> None:
        if not isinstance(source, str):
            raise ChatTemplateError(f"A chat template is text, got {type(source).__name__}.")
        if len(source) > MAX_SOURCE:
            raise ChatTemplateError(
                f"The chat template has {len(source):,} characters, where {MAX_SOURCE:,} are the most."
            )
        self.source = source
        self.bos_token = bos_token
        self.eos_token = eos_token

    @classmethod
    def of_model(cls, source: str, tokenizer: Tokenizer) -> Self:
        """A model's template, with the texts of its own BOS and EOS."""

        def text(token: int | None) -> str:
            return "" if token is None else tokenizer.control_text(token)

        return cls(source, bos_token=text(tokenizer.bos_token), eos_token=text(tokenizer.eos_token))

    def render(
        self,
        messages: Iterable[Message | Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        **template_options: Any,
    ) -> str:
        """Text of `messages`, with the opening of the model's answer unless `add_generation_prompt` is False.

        Raises:
            ChatTemplateError: the template cannot be compiled, fails, or refuses these messages (its own words are in
                the error), or a message or an option is not plain data.
        """
        options = {"add_generation_prompt": add_generation_prompt, **template_options}
        return self.render_plain(plain_turns(messages), plain_options(options))

    def check(self) -> None:
        """Compile it, which is else done when it first renders.

        Raises:
            ChatTemplateError: it cannot be compiled, or `tags` are too many.
        """
        self._rendered(None)
        _ = self.tags

    def render_plain(self, turns: list[dict[str, Any]], options: Mapping[str, Any]) -> str:
        """`render`, of what `plain_turns` and `plain_options` made plain."""
        # `tools` and `documents` are always defined, as in transformers: templates test them with `is not none`.
        variables = {
            "tools": None,
            "documents": None,
            "bos_token": self.bos_token,
            "eos_token": self.eos_token,
            "add_generation_prompt": True,
            **options,
            "messages": [_with_reasoning(turn) for turn in turns],
        }
        return self._rendered(variables)

    def _rendered(self, variables: Mapping[str, Any] | None) -> str:
        """What the template makes of the variables; without any, it is compiled alone."""
        request = (self.source, variables, datetime.now().isoformat())
        try:
            text, problem = renderers.call(request, SECONDS)
        except WorkerSlowError:
            raise ChatTemplateError(f"The chat template came to no end within {SECONDS:g} seconds.") from None
        except NoInterpreterError as error:
            _log.warning("The chat template is rendered in this process, without limits of time and memory. %s", error)
            text, problem = render(request)
        except WorkerDiedError as error:
            raise ChatTemplateError(f"The chat template ended the process that rendered it. {error}") from error
        except WorkerError as error:
            raise ChatTemplateError(f"The chat template cannot be rendered now. {error}") from error
        if problem is not None:
            raise ChatTemplateError(problem)
        return str(text)

    @functools.cached_property
    def tags(self) -> tuple[str, ...]:
        """What the template writes that looks like a token of its own: `<|user|>`, `[INST]`.

        Raises:
            ChatTemplateError: there are more than a template has use for.
        """
        found = tuple(dict.fromkeys(re.findall(r"<[^<>\s]{1,62}>|\[/?[A-Z_]{3,}\]", self.source)))
        if len(found) > MAX_TAGS:
            raise ChatTemplateError(
                f"The chat template has {len(found):,} texts that look like tokens, where {MAX_TAGS:,} are the most."
            )
        return found


# What a template sees ------------------------------------------------------------------------------------------------


def plain_turns(messages: Iterable[Message | Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages as dicts of plain data, checked."""
    if isinstance(messages, str | bytes | Mapping | Message) or not isinstance(messages, Iterable):
        raise ChatTemplateError(f"`messages` must be a sequence of messages, got {type(messages).__name__}.")
    turns = [_turn(message, f"messages[{index}]") for index, message in enumerate(messages)]
    if not turns:
        raise ChatTemplateError("`messages` is empty: a chat needs at least one message.")
    return turns


def _turn(message: object, where: str) -> dict[str, Any]:
    turn = _plain(message, where) if isinstance(message, Mapping) or _is_record(message) else None
    if not isinstance(turn, dict):
        raise ChatTemplateError(f"{where} must be a Message or a mapping, got {type(message).__name__}.")
    if "role" not in turn:
        raise ChatTemplateError(f"{where} has no role.")
    if not isinstance(turn["role"], str) or not turn["role"]:
        raise ChatTemplateError(f"{where}: the role must be a word such as 'user', got {quoted(turn['role'])}.")
    content = turn.get("content")
    if content is not None and not isinstance(content, str | list | tuple | dict):
        raise ChatTemplateError(f"{where}: the content must be text or a list of parts, got {quoted(content)}.")
    return turn


def plain_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Template options as plain data, copied.

    Raises:
        ChatTemplateError: one is no plain data, or has the name `messages`.
    """
    if "messages" in options:
        raise ChatTemplateError("`messages` cannot be a template option: pass the messages themselves.")
    return {name: _plain(value, f"the template option `{name}`") for name, value in options.items()}


def _plain(value: object, where: str, depth: int = 0) -> Any:
    """A deep copy of `value` made of exact built-in types: the sandbox does not know what others' methods do."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if depth == MAX_DEPTH:
        raise ChatTemplateError(
            f"{where} is nested too deeply: {MAX_DEPTH} lists and mappings in one another are the most."
        )

    def plain(item: object) -> Any:
        return _plain(item, where, depth + 1)

    if isinstance(value, Mapping):
        return {_key(key, where, depth + 1): plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, tuple):
        return tuple(plain(item) for item in value)
    if _is_record(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    raise ChatTemplateError(
        f"{where} holds a {type(value).__name__}: templates take text, numbers, lists and mappings."
    )


def _key(value: object, where: str, depth: int) -> Any:
    """A plain copy of a mapping's key."""
    key = _plain(value, where, depth)
    try:
        hash(key)
    except TypeError:
        raise ChatTemplateError(
            f"{where} holds a {type(value).__name__} as a key: templates take text there."
        ) from None
    return key


def _is_record(value: object) -> TypeGuard[DataclassInstance]:
    return is_dataclass(value) and not isinstance(value, type)


def _with_reasoning(turn: dict[str, Any]) -> dict[str, Any]:
    """The turn with its reasoning under each name that templates read, `reasoning_content` and `thinking`."""
    names = ("reasoning_content", "thinking", "reasoning")
    reasoning = next((turn[name] for name in names if turn.get(name) is not None), None)
    return turn if reasoning is None else {"thinking": reasoning, **turn, "reasoning_content": reasoning}
