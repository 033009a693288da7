"""`inference chat` from a pipe, on a fake backend and on a real model."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from fakes import END, FakeBackend, FakeRunner

from inference.cli.lines import LONGEST

Talk = Callable[..., Result]


class Listener(FakeRunner):
    """Answers `ok`, and remembers the prompts."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(script=b"ok", **settings)
        self.heard: list[str] = []

    def open(self, slot: int, options: Any, seed: int, prompt: Sequence[int]) -> None:
        super().open(slot, options, seed, prompt)
        self.heard.append(bytes(list(prompt)).decode())


@pytest.fixture
def listener(fake_backend: FakeBackend) -> Listener:
    runner = Listener()
    fake_backend.runner = lambda: runner
    return runner


@pytest.fixture
def talk(invoke: Callable[..., Result], fake_backend: FakeBackend, tiny_path: Path, template_path: Path) -> Talk:
    def run(*lines: str, flags: Sequence[str] = ()) -> Result:
        arguments = ["chat", tiny_path, "--backend", "fake", "--chat-template", template_path, *flags]
        return invoke(*arguments, input="".join(f"{line}\n" for line in lines))

    return run


def test_answers_go_to_stdout_without_prompts_or_colours(talk: Talk) -> None:
    result = talk("hi", "", "  ", "again")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "Hello there\nHello there\n", "")


def test_each_message_comes_with_the_conversation_so_far(talk: Talk, listener: Listener) -> None:
    talk("one", "two", flags=["--system", "sys"])
    assert listener.heard == ["[system: sys][user: one]", "[system: sys][user: one][assistant: ok][user: two]"]


def test_reset_forgets_the_turns_and_keeps_the_system_message(talk: Talk, listener: Listener) -> None:
    talk("one", "/reset", "two", flags=["--system", "sys"])
    assert listener.heard[1] == "[system: sys][user: two]"


def test_system_sets_and_removes_the_system_message(talk: Talk, listener: Listener) -> None:
    talk("/system be brief", "one", "/system", "/reset", "two")
    assert listener.heard == ["[system: be brief][user: one]", "[user: two]"]


def test_exit_ends_and_an_unknown_command_is_named(talk: Talk, listener: Listener) -> None:
    result = talk("/frobnicate", "/help", "/exit", "never said")
    assert result.exit_code == 0
    assert "There is no command /frobnicate. /help lists the commands." in result.stderr
    assert "/reset" in result.stderr
    assert listener.heard == []


def test_a_turn_that_fails_is_taken_back_and_the_program_goes_on(talk: Talk, listener: Listener) -> None:
    result = talk("one", "x" * 600, "two")
    assert result.exit_code == 1
    assert result.stdout == "ok\nok\n"
    assert result.stderr.startswith("Error: The prompt has ")
    assert "--context-length" in result.stderr
    assert listener.heard[1] == "[user: one][assistant: ok][user: two]"


@pytest.mark.parametrize(
    ("line", "sentence"), [(b"a\xff", "not UTF-8 text"), (b"a" * (LONGEST + 1), "longer than 32 MiB.")]
)
def test_a_line_that_cannot_be_read_is_refused_and_the_next_one_read(
    invoke: Callable[..., Result],
    listener: Listener,
    tiny_path: Path,
    template_path: Path,
    line: bytes,
    sentence: str,
) -> None:
    arguments = ["--backend", "fake", "--chat-template", template_path]
    result = invoke("chat", tiny_path, *arguments, input=line + b"\nb")
    assert f"Error: That line is {sentence}" in result.stderr
    assert listener.heard == ["[user: b]"]
    assert result.exit_code == 1


def test_an_answer_that_was_cut_says_so(talk: Talk) -> None:
    result = talk("hi", flags=["-n", "5"])
    assert result.stdout == "Hello\n"
    assert result.stderr == "(cut after 5 tokens; --max-tokens sets another limit)\n"


def test_a_full_context_says_so(talk: Talk, fake_backend: FakeBackend) -> None:
    fake_backend.runner = lambda: FakeRunner(script=b"Hello there", context_length=len("[user: hi]") + 3)
    assert "the context is full" in talk("hi").stderr


def test_an_answer_of_no_text_is_an_answer(talk: Talk, fake_backend: FakeBackend) -> None:
    runner = Listener()
    runner.script = [END]
    fake_backend.runner = lambda: runner
    assert talk("one", "two").stdout == ""
    assert runner.heard[1] == "[user: one][assistant: ][user: two]"


def test_a_model_without_a_template_is_refused_before_anything_is_said(
    invoke: Callable[..., Result], fake_backend: FakeBackend, tiny_path: Path
) -> None:
    result = invoke("chat", tiny_path, "--backend", "fake", input="hi\n")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "Error: tiny.gguf carries no chat template." in result.stderr


@pytest.mark.real_model
def test_a_real_model_remembers_the_conversation(
    inference: Callable[..., subprocess.CompletedProcess[bytes]], smollm_path: Path
) -> None:
    lines = b"The secret word is banana. Say it.\nWhat was the secret word?\n"
    done = inference("chat", smollm_path, "-n", 16, "--threads", 1, stdin=lines)
    assert done.returncode == 0
    _, second = done.stdout.splitlines()
    assert b"banana" in second
    assert b"\x1b" not in done.stdout + done.stderr
