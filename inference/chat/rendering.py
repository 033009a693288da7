"""The other side of `ChatTemplate`: compiles and renders templates. It runs in a worker's process.

A template comes out of a model file, so it runs in jinja2's sandbox, on plain data, and what it may make is bounded.
Its environment is that of Hugging Face's `transformers` (`utils/chat_template_utils.py`), for which they are written.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Template, nodes
    from jinja2.parser import Parser
    from jinja2.sandbox import SandboxedEnvironment

__all__ = ["MAX_OUTPUT", "render"]

MAX_OUTPUT = 2**26
"""Characters of a rendered prompt: some ten million tokens."""
MAX_WORDS = 2000
"""Characters of an error that are told."""
KEPT = 8
"""Compiled templates that are kept."""


def render(wanted: tuple[str, Mapping[str, Any] | None, str]) -> tuple[str, str | None]:
    """What the template with that source makes of the variables at that time (ISO 8601); without variables, it is
    compiled alone. The text and None, or "" and why there is none."""
    source, variables, time = wanted
    try:
        template = _compiled(source)
    except ImportError:
        return "", "Chat templates need jinja2: pip install 'jinja2>=3.1.6'."
    except MemoryError:
        return "", "The chat template wants more memory than it may have."
    except Exception as error:  # noqa: BLE001 - it is the template's
        return "", f"The chat template cannot be compiled{_line(error)}: {_words(error)}"
    if variables is None:
        return "", None
    try:
        text = template.render({"strftime_now": datetime.fromisoformat(time).strftime, **variables})
    except _Refusal as error:
        return "", f"The chat template refuses these messages{_line(error)}: {_words(error)}"
    except MemoryError:
        return "", "The chat template wants more memory than it may have."
    except Exception as error:  # noqa: BLE001 - it is the template's
        reason = f"{type(error).__name__}: {_words(error)}"
        return "", f"The chat template failed on these messages{_line(error)}: {reason}"
    if len(text) > MAX_OUTPUT:
        return "", f"The chat template wrote {len(text):,} characters, where {MAX_OUTPUT:,} are the most."
    return text, None


@functools.lru_cache(maxsize=KEPT)
def _compiled(source: str) -> Template:
    return _environment().from_string(source)


def _words(error: Exception) -> str:
    """What the error says, as far as anybody would read."""
    words = str(error)
    return words if len(words) <= MAX_WORDS else f"{words[:MAX_WORDS]}..."


class _Refusal(Exception):  # noqa: N818 - the template's word, not a failure of ours
    """`raise_exception` was called."""


def _raise_exception(message: object) -> None:
    raise _Refusal(str(message))


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
    environment.globals.update(raise_exception=_raise_exception, dict=_Dict(), namespace=PublicNamespace)
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
