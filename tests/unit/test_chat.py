"""Rendering a chat: what a template sees, and how it fails."""

from __future__ import annotations

import enum
import subprocess
import sys
from collections import OrderedDict
from types import MappingProxyType
from typing import Any

import pytest

from inference.chat import ChatTemplate
from inference.errors import ChatTemplateError
from inference.types import Message

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


# Rendering -----------------------------------------------------------------------------------------------------------


def test_messages_and_mappings_render_alike() -> None:
    expected = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    template = ChatTemplate(CHATML)
    for message in (
        Message("user", "Hi"),
        {"role": "user", "content": "Hi"},
        MappingProxyType({"role": "user", "content": "Hi"}),
    ):
        assert template.render([message]) == expected
        assert template.render(iter([message])) == expected


def test_the_opening_of_the_answer_can_be_left_out() -> None:
    assert ChatTemplate(CHATML).render([Message("user", "Hi")], add_generation_prompt=False).endswith("<|im_end|>\n")


def test_every_key_of_a_mapping_and_every_option_reaches_the_template() -> None:
    template = ChatTemplate(
        "{{ messages[0].tool_calls[0].name }}{{ enable_thinking }}{{ tools[0].name }}{{ bos_token }}"
    )
    message = {"role": "assistant", "tool_calls": [{"name": "f"}]}
    assert template.render([message], enable_thinking=False, tools=[{"name": "g"}]) == "fFalseg"
    assert ChatTemplate(template.source, bos_token="<s>").render([message], tools=[{}]) == "f<s>"


def test_a_template_sees_plain_types_whatever_was_passed() -> None:
    class Role(str, enum.Enum):  # noqa: UP042 - its str() is not its value
        USER = "user"

    class Loud(str):
        __slots__ = ()

        def __str__(self) -> str:
            return "LOUD"

        def strip(self, *args: Any) -> str:
            raise AssertionError("a method of the caller's ran inside the template")

    template = ChatTemplate("{{ messages[0].role }} {{ messages[0].content.strip() }} {{ messages[0].meta }}")
    message = {"role": Role.USER, "content": Loud(" Hi "), "meta": OrderedDict(a=(1, 2.5, None, True))}
    assert template.render([message]) == "user Hi {'a': (1, 2.5, None, True)}"


def test_a_template_cannot_change_the_callers_messages() -> None:
    message = {"role": "user", "content": [{"type": "text", "text": "Hi"}]}
    template = ChatTemplate("{% set _ = messages[0].content.append(1) %}")
    with pytest.raises(ChatTemplateError, match="SecurityError"):
        template.render([message])
    assert message == {"role": "user", "content": [{"type": "text", "text": "Hi"}]}


def test_reasoning_is_found_under_each_of_its_names() -> None:
    template = ChatTemplate("{{ messages[0].reasoning_content }}{{ messages[0].thinking }}")
    for name in ("reasoning_content", "thinking", "reasoning"):
        assert template.render([{"role": "assistant", "content": "", name: "r"}]) == "rr"


# Refusals ------------------------------------------------------------------------------------------------------------


def test_no_messages_are_refused() -> None:
    with pytest.raises(ChatTemplateError, match="empty"):
        ChatTemplate(CHATML).render([])


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"content": "x"}, "no role"),
        ({"role": None, "content": "x"}, "role"),
        ({"role": "", "content": "x"}, "role"),
        ({"role": 1, "content": "x"}, "role"),
        (Message(None, "x"), "role"),  # type: ignore[arg-type]
        ({"role": "user", "content": 7}, "content"),
        ({"role": "user", "content": b"x"}, "bytes"),
        ({"role": "user", "content": "x", "extra": {1, 2}}, "set"),
        ({"role": "user", "content": [{"image": object()}]}, "object"),
        ("user: x", "str"),
        (None, "NoneType"),
        (["user", "x"], "list"),
        (Message, "type"),
    ],
)
def test_a_message_of_the_wrong_shape_is_refused_by_its_index(message: Any, words: str) -> None:
    with pytest.raises(ChatTemplateError, match=rf"messages\[1\].*{words}"):
        ChatTemplate(CHATML).render([Message("user", "Hi"), message])


@pytest.mark.parametrize("messages", ["Hi", b"Hi", None, 7, {"role": "user", "content": "x"}, Message("user", "Hi")])
def test_what_is_no_sequence_of_messages_is_refused(messages: Any) -> None:
    with pytest.raises(ChatTemplateError, match="sequence of messages"):
        ChatTemplate(CHATML).render(messages)


def test_a_message_that_holds_itself_is_refused() -> None:
    message: dict[str, Any] = {"role": "user", "content": []}
    message["content"].append(message)
    with pytest.raises(ChatTemplateError, match=r"messages\[0\].*nested"):
        ChatTemplate(CHATML).render([message])


def test_an_option_that_is_no_plain_data_is_refused_by_its_name() -> None:
    with pytest.raises(ChatTemplateError, match=r"`tools`.*function"):
        ChatTemplate(CHATML).render([Message("user", "Hi")], tools=[lambda: None])


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("one\ntwo {% if %}", "line 2"),
        ("one\n\n{% endfor %}", "line 3"),
        ("{{ 'open", "line 1"),
        ("{{ x | nothing }}", "nothing"),
        (None, "NoneType"),
    ],
)
def test_a_broken_template_is_refused_with_its_line(source: Any, words: str) -> None:
    with pytest.raises(ChatTemplateError, match=words):
        ChatTemplate(source).render([Message("user", "Hi")])


def test_the_templates_own_refusal_comes_in_its_own_words_and_with_its_line() -> None:
    template = ChatTemplate(
        "{% if messages|length > 1 %}\n{{ raise_exception('Only <one> turn, please.') }}\n{% endif %}"
    )
    assert template.render([Message("user", "a")]) == ""
    with pytest.raises(ChatTemplateError, match=r"refuses.*line 2.*Only <one> turn, please\.$"):
        template.render([Message("user", "a"), Message("assistant", "b")])


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("{{ messages[0].nothing.more }}", "UndefinedError"),
        ("{{ 'a' + 1 }}", "TypeError"),
        ("{{ 1 // 0 }}", "ZeroDivisionError"),
        ("{{ ''.__class__.mro() }}", "SecurityError"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{% for i in range(10**9) %}{% endfor %}", "OverflowError"),
        ("{{ ''.join([1]) }}", "TypeError"),
        ("{{ undefined() }}", "UndefinedError"),
    ],
)
def test_a_fault_in_a_template_names_its_kind_and_line(fault: str, kind: str) -> None:
    with pytest.raises(ChatTemplateError, match=rf"line 2\): {kind}"):
        ChatTemplate("one\n" + fault).render([Message("user", "Hi")])


def test_without_jinja2_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from inference.chat import rendering

    rendering._environment.cache_clear()
    monkeypatch.setitem(sys.modules, "jinja2", None)
    _, problem = rendering.render((CHATML, {"messages": []}, "2026-11-22"))
    monkeypatch.undo()
    assert problem is not None
    assert "pip install 'jinja2" in problem


def test_jinja2_is_not_imported_before_a_template_is_rendered() -> None:
    code = "import sys, inference.chat as c; c.ChatTemplate('{{ x }}'); sys.exit('jinja2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
