"""A chat template is a stranger's program: what it does to itself is a ChatTemplateError, and nothing else happens."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest

from inference import Message
from inference.chat import ChatTemplate, template
from inference.errors import ChatTemplateError
from inference.worker import Workers

HELLO = [Message("user", "Hello")]
LOOPS = "{% for a in range(99999) %}" * 3 + "{% endfor %}" * 3

linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems have no limit of memory for a process")


def rendered(source: str) -> str:
    return ChatTemplate(source).render(HELLO)


@linux
@pytest.mark.parametrize("source", [
    "{{ 'a' * 3000000000 }}",
    "{% set n = namespace(x='a' * 1000) %}{% for i in range(40) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "{{ '%3000000000d' % 1 }}",
    "{{ 'x'|center(3000000000) }}",
    "{{ ('a' * 100000)|replace('a', 'b' * 100000) }}",
    "{% set n = namespace(x=['a']) %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
])  # fmt: skip
def test_memory_is_bounded(source: str) -> None:
    with pytest.raises(ChatTemplateError, match="more memory than it may have"):
        rendered(source)


def test_output_is_bounded() -> None:
    with pytest.raises(ChatTemplateError, match="wrote 70,000,000 characters, where 67,108,864 are the most"):
        rendered("{% set x = 'a' * 100000 %}{% for i in range(700) %}{{ x }}{% endfor %}")


@pytest.mark.parametrize("source", [LOOPS, "{% macro f(n) %}{{ f(n - 1) ~ f(n - 1) if n }}{% endmacro %}{{ f(99) }}"])
def test_time_is_bounded(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template, "SECONDS", 0.5)
    with pytest.raises(ChatTemplateError, match=r"no end within 0\.5 seconds"):
        rendered(source)
    assert rendered("{{ messages[0].content }}") == "Hello", "the next template is rendered"


@pytest.mark.parametrize("source", [
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{% from 'os' import system %}",
    "{{ self.__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ ().__class__.__base__.__subclasses__() }}",
    "{{ ''.__class__.__mro__[1] }}",
    "{{ '{0.__class__.__mro__}'.format(messages) }}",
    "{{ messages.append(1) }}",
    "{{ dict.__init__.__globals__ }}",
    "{{ open('/etc/passwd').read() }}",
    "{% set ns = namespace(__class__=1) %}",
    "{% for m in messages %}{% do m.update({'a': 1}) %}{% endfor %}",
])  # fmt: skip
def test_nothing_outside_can_be_reached(source: str) -> None:
    with pytest.raises(ChatTemplateError):
        rendered(source)


@pytest.mark.parametrize(
    "source", ["{{ messages.__class__ }}", "{{ ''|attr('__class__') }}", "{{ raise_exception.__globals__ }}"]
)
def test_an_attribute_of_pythons_own_is_undefined(source: str) -> None:
    assert rendered(source) == ""


def test_a_deep_recursion_is_an_error() -> None:
    with pytest.raises(ChatTemplateError, match="RecursionError"):
        rendered("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}")
    with pytest.raises(ChatTemplateError):
        rendered("{{ " + "(" * 100_000 + ")" * 100_000 + " }}")


def test_an_endless_complaint_is_cut() -> None:
    with pytest.raises(ChatTemplateError) as raised:
        rendered("{{ raise_exception('no ' * 1000000) }}")
    assert len(str(raised.value)) < 3000


def test_where_no_process_can_be_started_a_warning_says_that_nothing_bounds_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(template, "renderers", Workers("inference.chat.rendering:render", most=1))
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with caplog.at_level(logging.WARNING):
        assert rendered("{{ messages[0].content }}") == "Hello"
    assert "without limits of time and memory" in caplog.text


def test_where_a_process_cannot_be_started_just_now_nothing_is_rendered_without_limits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(template, "renderers", Workers("no_such_module:render", most=1))
    with pytest.raises(ChatTemplateError, match="cannot be rendered now"):
        rendered("{{ 1 }}")


def test_nothing_is_left_of_a_template_in_the_next_one() -> None:
    rendered("{% set ns = namespace(secret='s') %}{% set left = 'behind' %}")
    assert rendered("{{ left }}{{ ns }}") == ""


def test_no_file_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(template, "renderers", Workers("inference.chat.rendering:render", most=1))
    rendered("{{ 1 }}")
    assert list(tmp_path.iterdir()) == []
