"""Files that cannot be loaded: one sentence on standard error, exit code 1, nothing on standard output."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

SOUND = "sound.gguf"


@pytest.fixture
def bad_path(request: pytest.FixtureRequest, tmp_path: Path, write_gguf: Callable[..., Path]) -> Path:
    path = tmp_path / "bad.gguf"
    sound = write_gguf(SOUND).read_bytes()
    contents = {
        "empty": b"",
        "wrong magic": b"This is no model.",
        "truncated header": sound[:30],
        "truncated weights": sound[:-1],
        "future version": sound[:4] + b"\x63" + sound[5:],
        "web page": b"<!DOCTYPE html>",
    }
    if request.param == "directory":
        path.mkdir()
    elif request.param != "missing":
        path.write_bytes(contents[request.param])
    return path


BAD = pytest.mark.parametrize(
    ("bad_path", "sentence"),
    [
        ("missing", "There is no file"),
        ("directory", "is a directory"),
        ("empty", "is empty"),
        ("wrong magic", "is no GGUF file: it begins with b'This'"),
        ("web page", "is a web page"),
        ("truncated header", "ends at byte 30"),
        ("truncated weights", "ends at byte"),
        ("future version", "version 99 is unknown"),
    ],
    indirect=["bad_path"],
)


@BAD
@pytest.mark.parametrize("command", ["run", "chat", "info", "doctor"])
def test_every_command_says_what_is_wrong_with_the_file(
    invoke: Callable[..., Result], bad_path: Path, sentence: str, command: str
) -> None:
    result = invoke(command, bad_path, input="hi")
    assert result.exit_code == 1
    assert sentence in result.stderr
    assert "bad.gguf" in result.stderr
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    if command != "doctor":
        assert result.stdout == ""


@pytest.mark.parametrize("bad_path", ["truncated weights"], indirect=True)
def test_the_program_itself_prints_no_traceback(
    inference: Callable[..., subprocess.CompletedProcess[bytes]], bad_path: Path
) -> None:
    done = inference("run", bad_path, "hi")
    assert done.returncode == 1
    assert done.stdout == b""
    assert done.stderr.startswith(b"Error: ")
    assert b"Traceback" not in done.stderr


def test_an_unknown_backend_is_named_with_those_there_are(
    invoke: Callable[..., Result], fake_backend: object, tiny_path: Path
) -> None:
    result = invoke("run", tiny_path, "hi", "--backend", "warp")
    assert result.exit_code == 1
    assert "No backend is called 'warp'" in result.stderr
    assert "fake" in result.stderr


def test_an_option_that_the_backend_lacks_is_named_as_a_flag(
    invoke: Callable[..., Result], fake_backend: object, tiny_path: Path
) -> None:
    result = invoke("run", tiny_path, "hi", "--backend", "fake", "--mlock")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: Backend 'fake'")
    assert "--mlock" in result.stderr


@pytest.mark.real_model
@pytest.mark.parametrize("cut", [10, 1_000_000, -1])
def test_a_truncated_real_model_is_refused(
    invoke: Callable[..., Result], smollm_path: Path, tmp_path: Path, cut: int
) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(smollm_path.read_bytes()[:cut])
    result = invoke("run", path, "hi")
    assert result.exit_code == 1
    assert "ends at byte" in result.stderr
