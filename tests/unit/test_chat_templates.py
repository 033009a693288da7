"""Templates of real models render as `transformers` renders them."""

from __future__ import annotations

import functools
import importlib
import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import jinja2
import pytest

from inference.chat import ChatTemplate, template
from inference.errors import ChatTemplateError

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it would warn that there is no torch
transformers = importlib.import_module("transformers.utils.chat_template_utils")

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Wetter für einen <Ort> & 'mehr'",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "é", "enum": ["Zürich", "東京"]}},
            "required": ["city"],
        },
    },
}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {"id": "call00001", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Zürich"}}}
    ],
}
RESULT = {"role": "tool", "tool_call_id": "call00001", "name": "get_weather", "content": '{"celsius": 21}'}
ASKED = {"role": "user", "content": "Weather?"}


def turns(*contents: str) -> list[dict[str, Any]]:
    """User and assistant by turns."""
    return [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]


CONVERSATIONS: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "one user turn": (turns("Hi"), {}),
    "system and user": ([{"role": "system", "content": "Be brief."}, *turns("Hi")], {}),
    "developer and user": ([{"role": "developer", "content": "Be brief."}, *turns("Hi")], {}),
    "several turns": ([{"role": "system", "content": "Be brief."}, *turns("a", "b", "c", "d", "e")], {}),
    "no generation prompt": (turns("a", "b"), {"add_generation_prompt": False}),
    "unicode and newlines": (turns('Grüße 👋🏽\n\n  <b>two</b>  lines & "quotes" \\ \r\n\t\u2028{{ x }}\n'), {}),
    "thinking": (turns("a", "<think>\nhm\n</think>\n\nb", "c"), {"enable_thinking": True}),
    "no thinking": (turns("a", "<think>\nhm\n</think>\n\nb", "c"), {"enable_thinking": False}),
    "reasoning": ([ASKED, {"role": "assistant", "content": "b", "reasoning": "r"}, ASKED], {}),
    "tools": ([ASKED], {"tools": [WEATHER]}),
    "tools and a system prompt": ([{"role": "system", "content": "S"}, ASKED], {"tools": [WEATHER, WEATHER]}),
    "a tool's call": ([ASKED, CALL, RESULT], {"tools": [WEATHER]}),
    "a call without content": ([ASKED, {**CALL, "content": None}, RESULT, *turns("?")], {"tools": [WEATHER]}),
    "options of one template": ([ASKED], {"functions": "[]", "datetime": "Nov 22 2026"}),
    "documents": ([ASKED], {"documents": [{"title": "T", "text": "é <x>"}]}),
    "content in parts": ([{"role": "user", "content": [{"type": "text", "text": t} for t in ("one", "two")]}], {}),
    "two assistants": ([*turns("a", "b"), {"role": "assistant", "content": "c"}], {}),
    "assistant first": ([{"role": "assistant", "content": "c"}], {}),
    "an unknown role": ([{"role": "nobody", "content": "c"}], {}),
    "no content": ([{"role": "user"}], {}),
}


class Noon(datetime):
    """A clock that stands still."""

    @classmethod
    def now(cls, tz: Any = None) -> Noon:
        return cls(2026, 11, 22, 12, 0, 0, tzinfo=tz or timezone.utc)  # noqa: UP017


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformers, "datetime", Noon)
    monkeypatch.setattr(template, "datetime", Noon)


def theirs(source: str, messages: list[dict[str, Any]], options: dict[str, Any]) -> str | Exception:
    try:
        rendered, _ = transformers.render_jinja_template(
            [messages],
            chat_template=source,
            bos_token="<s>",
            eos_token="</s>",
            **{"add_generation_prompt": True, **options},
        )
    except Exception as error:  # noqa: BLE001 - whatever it is, ours must fail as well
        return error
    return str(rendered[0])


@functools.cache
def compiled(source: str) -> ChatTemplate:
    return ChatTemplate(source, bos_token="<s>", eos_token="</s>")


def ours(source: str, messages: list[dict[str, Any]], options: dict[str, Any]) -> str | Exception:
    try:
        return compiled(source).render(messages, **options)
    except ChatTemplateError as error:
        return error


def agree(one: str | Exception, other: str | Exception) -> bool:
    """The same text, or both refuse; with the template's own words, if it was the template that refused."""
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    return type(one) is not jinja2.TemplateError or str(one) in str(other)


@pytest.fixture(scope="module")
def sources(llama_cpp_sources: Path) -> dict[str, str]:
    return {path.name: path.read_text("utf-8") for path in (llama_cpp_sources / "models/templates").glob("*.jinja")}


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_every_template_in_llama_cpps_sources_renders_as_transformers_renders_it(
    name: str, sources: dict[str, str]
) -> None:
    expected = {file: theirs(source, *CONVERSATIONS[name]) for file, source in sources.items()}
    found = {file: ours(source, *CONVERSATIONS[name]) for file, source in sources.items()}
    assert {file: (expected[file], found[file]) for file in sources if not agree(expected[file], found[file])} == {}


def test_every_template_in_llama_cpps_sources_renders_a_conversation(sources: dict[str, str]) -> None:
    assert len(sources) >= 70
    for file, source in sources.items():
        rendered = [ours(source, *conversation) for conversation in CONVERSATIONS.values()]
        assert any(isinstance(text, str) and text for text in rendered), file
    plain = [ours(source, *CONVERSATIONS["one user turn"]) for source in sources.values()]
    assert sum(isinstance(text, Exception) for text in plain) <= 4  # four are for tools alone


SNIPPETS = {
    "the arguments of tojson": "{{ {'b': 'é<&>', 'a': [none]} | tojson(indent=2, sort_keys=true, ensure_ascii=true) }}"
    "{{ {'a': [1, 2]} | tojson(separators=(',', ':')) }}",
    "tojson escapes no html": "{{ messages[0].content | tojson }}",
    "blocks take their line's end": "  {% if true %}\n  x\n  {% endif %}\ny",
    "loop controls": "{% for m in messages %}{% if loop.index == 2 %}{% continue %}{% endif %}"
    "{% if loop.index == 3 %}{% break %}{% endif %}{{ m.content }}{% endfor %}",
    "generation": "{% for m in messages %}{% generation %}{% set x = loop.index %}{{ m.content }}{{ x }}"
    "{% endgeneration %}{{ x }}{% endfor %}",
    "tokens": "{{ bos_token }}|{{ eos_token }}|{{ unk_token }}",
    "tools that were not passed": "{{ tools is none }}{{ documents is none }}{{ other is defined }}",
    "the clock": "{{ strftime_now('%d %b %Y') }}",
    "a namespace": "{% set ns = namespace(a=1) %}{% for m in messages %}{% set ns.a = ns.a + 1 %}{% endfor %}"
    "{{ ns.a }}",
    "a dict": "{{ dict(a=1, b=[2]) }}{{ dict.fromkeys(['a']) }}",
    "an undefined attribute": "{{ messages[0].nothing }}",
    "an attribute of an undefined one": "{{ messages[0].nothing.more }}",
    "division by zero": "{{ 1 / 0 }}",
    "too large a range": "{% for i in range(10000000) %}{% endfor %}",
    "endless recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "the door to Python": "{{ ''.__class__.__mro__ }}",
    "a change of a message": "{{ messages[0].update({'content': 'x'}) }}",
    "a change of a list": "{{ messages.append(1) }}",
    "a change past the sandbox": "{{ dict.update(messages[0], {'content': 'x'}) }}",
    "a private name in a namespace": "{% set ns = namespace(_x=1) %}{{ ns._x }}",
    "a private name set in a namespace": "{% set ns = namespace() %}{% set ns._x = 1 %}",
    "its own refusal": "{{ raise_exception('Only <one> turn, \"please\"') }}",
    "a syntax error": "a\nb {% if %}",
    "an unknown tag": "{% nothing %}",
    "an unknown filter": "{{ 1 | nothing }}",
    "an include": "{% include 'x' %}",
    "a str method": "{{ 'a,b'.split(',') }}{{ '%s' % 1 }}{{ '{0}'.format(2) }}",
    "a format that reaches in": "{{ '{0.__class__}'.format(1) }}",
}


@pytest.mark.parametrize("name", SNIPPETS)
def test_what_templates_expect_of_their_environment_is_there_as_in_transformers(name: str) -> None:
    messages = turns("é <&> 'x'", "two", "three")
    expected, found = (render(SNIPPETS[name], messages, {}) for render in (theirs, ours))
    assert agree(expected, found), (expected, found)
