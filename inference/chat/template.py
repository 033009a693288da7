"""The model's own chat template: messages become text, and that text becomes token ids.

A template comes out of a model file, so it runs in jinja2's sandbox and sees copies made of plain data. Its environment
is that of Hugging Face's `transformers` (`utils/chat_template_utils.py`), for which templates are written. jinja2 is
imported when the first template is rendered.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self

from inference.errors import ChatTemplateError
from inference.types import Message

if TYPE_CHECKING:
    from jinja2 import Template, nodes
    from jinja2.parser import Parser
    from jinja2.sandbox import SandboxedEnvironment

    from inference.protocols import Tokenizer

__all__ = ["ChatTemplate"]


class ChatTemplate:
    """A chat template in Jinja. It is compiled at the first rendering, which may happen on any thread.

    `bos_token` and `eos_token` are texts, for templates that write them.
    """

    def __init__(self, source: str, *, bos_token: str = "", eos_token: str = "") -> None:
        if not isinstance(source, str):
            raise ChatTemplateError(f"A chat template is text, got {type(source).__name__}.")
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
            ChatTemplateError: it cannot be compiled.
        """
        _ = self._template

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
        template = self._template
        try:
            return template.render(variables)
        except _Refusal as error:
            raise ChatTemplateError(f"The chat template refuses these messages{_line(error)}: {error}") from error
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise ChatTemplateError(f"The chat template failed on these messages{_line(error)}: {reason}") from error

    @functools.cached_property
    def _template(self) -> Template:
        try:
            environment = _environment()
        except ImportError as error:
            raise ChatTemplateError("Chat templates need jinja2: pip install 'jinja2>=3.1.6'.") from error
        try:
            return environment.from_string(self.source)
        except Exception as error:
            raise ChatTemplateError(f"The chat template cannot be compiled{_line(error)}: {error}") from error

    @functools.cached_property
    def tags(self) -> tuple[str, ...]:
        """What the template writes that looks like a token of its own: `<|user|>`, `[INST]`."""
        return tuple(dict.fromkeys(re.findall(r"<[^<>\s]{1,62}>|\[/?[A-Z_]{3,}\]", self.source)))


# The environment -----------------------------------------------------------------------------------------------------


class _Refusal(Exception):  # noqa: N818 - the template's word, not a failure of ours
    """`raise_exception` was called."""


def _raise_exception(message: object) -> None:
    raise _Refusal(str(message))


def _strftime_now(format: str) -> str:  # noqa: A002 - templates may name the argument
    return datetime.now().strftime(format)


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class _Dict:
    """`dict` for templates. The class itself would hand out methods that change any dict, past the sandbox."""

    def __call__(self, *args: Any, **keywords: Any) -> dict[Any, Any]:
        return dict(*args, **keywords)

    def fromkeys(self, keys: Iterable[Any], value: Any = None) -> dict[Any, Any]:
        return dict.fromkeys(keys, value)


@functools.cache
def _environment() -> SandboxedEnvironment:
    from jinja2 import nodes
    from jinja2.exceptions import SecurityError
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import Namespace

    class Generation(Extension):
        """`{% generation %}` marks what the model wrote, for training; here it renders its body."""

        tags = {"generation"}  # noqa: RUF012 - jinja2's own shape

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    class PublicNamespace(Namespace):
        """`namespace` without underscored names, the door to Python's internals."""

        def __init__(*args: Any, **keywords: Any) -> None:  # so that `self` may be a name in it
            values = dict(*args[1:], **keywords)
            for name in values:
                _refuse_private(name)
            Namespace.__init__(args[0], values)

        def __setitem__(self, name: str, value: Any) -> None:
            _refuse_private(name)
            super().__setitem__(name, value)

    def _refuse_private(name: object) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise SecurityError(f"a namespace takes no name that begins with an underscore: {name!r}")

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _tojson
    environment.globals.update(
        raise_exception=_raise_exception, strftime_now=_strftime_now, dict=_Dict(), namespace=PublicNamespace
    )
    return environment


def _line(error: BaseException) -> str:
    """Where in the template `error` arose, if known. jinja2 rewrites its frames to the template's lines."""
    line = getattr(error, "lineno", None)
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == "<template>":
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return f" (line {line})" if line else ""


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
        raise ChatTemplateError(f"{where}: the role must be a word such as 'user', got {turn['role']!r}.")
    content = turn.get("content")
    if content is not None and not isinstance(content, str | list | tuple | dict):
        raise ChatTemplateError(f"{where}: the content must be text or a list of parts, got {content!r}.")
    return turn


def plain_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Template options as plain data, copied.

    Raises:
        ChatTemplateError: one is no plain data, or has the name `messages`.
    """
    if "messages" in options:
        raise ChatTemplateError("`messages` cannot be a template option: pass the messages themselves.")
    return {name: _plain(value, f"the template option `{name}`") for name, value in options.items()}


def _plain(value: object, where: str) -> Any:
    """A deep copy of `value` made of exact built-in types: the sandbox does not know what others' methods do."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    try:
        if isinstance(value, Mapping):
            return {_plain(key, where): _plain(item, where) for key, item in value.items()}
        if isinstance(value, list):
            return [_plain(item, where) for item in value]
        if isinstance(value, tuple):
            return tuple(_plain(item, where) for item in value)
        if _is_record(value):
            return {field.name: _plain(getattr(value, field.name), where) for field in fields(value)}  # type: ignore[arg-type]
    except RecursionError:
        raise ChatTemplateError(f"{where} is nested too deeply.") from None
    raise ChatTemplateError(
        f"{where} holds a {type(value).__name__}: templates take text, numbers, lists and mappings."
    )


def _is_record(value: object) -> bool:
    return is_dataclass(value) and not isinstance(value, type)


def _with_reasoning(turn: dict[str, Any]) -> dict[str, Any]:
    """The turn with its reasoning under each name that templates read, `reasoning_content` and `thinking`."""
    names = ("reasoning_content", "thinking", "reasoning")
    reasoning = next((turn[name] for name in names if turn.get(name) is not None), None)
    return turn if reasoning is None else {"thinking": reasoning, **turn, "reasoning_content": reasoning}
