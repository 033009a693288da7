"""Signals and a reader that goes away, on an endless fake model in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and terminals")

Start = Callable[..., subprocess.Popen[bytes]]
ENDLESS = ("--backend", "fake", "-n", 90_000)
PATIENCE = 60.0


def test_ctrl_c_ends_run_with_130_and_the_figures(start_on_fake: Start, tiny_path: Path) -> None:
    process = start_on_fake("run", tiny_path, "abc", *ENDLESS)
    assert process.stdout is not None
    assert process.stdout.read(3) == b"def"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert b"stopped: cancelled" in errors
    assert b"Traceback" not in errors


def test_ctrl_c_leaves_json_whole(start_on_fake: Start, tiny_path: Path) -> None:
    process = start_on_fake("run", tiny_path, "abc", "--json", *ENDLESS)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert b'"finish_reason": "cancelled"' in output.splitlines()[-1]


def test_a_reader_that_goes_away_ends_run_in_silence(start_on_fake: Start, tiny_path: Path) -> None:
    process = start_on_fake("run", tiny_path, "abc", *ENDLESS)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(1)
    process.stdout.close()
    assert process.wait(PATIENCE) == 0
    assert process.stderr.read() == b""


def test_ctrl_c_stops_the_answer_and_not_the_chat(start_on_fake: Start, tiny_path: Path, template_path: Path) -> None:
    process = start_on_fake("chat", tiny_path, "--chat-template", template_path, *ENDLESS)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"hi\n")
    process.stdin.flush()
    process.stdout.read(5)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(b"/help\n/exit\n", timeout=PATIENCE)
    assert process.returncode == 0
    assert output.endswith(b"\n")
    assert errors.startswith(b"(stopped)\n/reset")
