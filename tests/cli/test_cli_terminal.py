"""The command line with a terminal for its standard streams, on an endless fake model."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("POSIX terminals", allow_module_level=True)

import fcntl
import pty
import termios

pytest.importorskip("readline")

Start = Callable[..., subprocess.Popen[bytes]]
ENDLESS = ("--backend", "fake", "-n", 90_000)
PATIENCE = 60.0


class Terminal:
    """A program that has a terminal, and the hands and eyes before it."""

    def __init__(self, start: Start, *arguments: object) -> None:
        self.ours, theirs = pty.openpty()

        def adopt() -> None:  # so that ^C typed there comes as SIGINT
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.process = start(*arguments, stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=adopt)
        os.close(theirs)
        self.seen = ""

    def type(self, keys: str) -> None:
        os.write(self.ours, keys.encode())

    def interrupt_prompt(self, pattern: str) -> None:
        """Type Ctrl-C while a line is read, until `pattern` appears. Python's readline notices a signal only while it
        waits for a key: one that comes just before lies until the next, and both are one interrupt then."""
        for _ in range(10):
            self.type("\x03")
            if self._read_until(pattern, 5.0):
                return
        raise AssertionError(f"no {pattern!r} in {self.seen!r}")

    def wait_for(self, pattern: str) -> str:
        """Read until `pattern` appears in what was not read before; returns the text up to its end."""
        text = self._read_until(pattern, PATIENCE)
        assert text is not None, f"no {pattern!r} in {self.seen!r}"
        return text

    def _read_until(self, pattern: str, patience: float) -> str | None:
        deadline = time.monotonic() + patience
        while (match := re.search(pattern, self.seen)) is None:
            ready, _, _ = select.select([self.ours], [], [], max(0.0, deadline - time.monotonic()))
            try:
                data = os.read(self.ours, 4096) if ready else b""
            except OSError:  # Linux reports the end of a terminal so
                data = b""
            if not data:
                return None
            self.seen += data.decode()
        text, self.seen = self.seen[: match.end()], self.seen[match.end() :]
        return text


def test_in_a_terminal_ctrl_c_stops_the_answer_and_twice_at_the_prompt_leaves(
    start_on_fake: Start, tiny_path: Path, template_path: Path
) -> None:
    terminal = Terminal(start_on_fake, "chat", tiny_path, "--chat-template", template_path, *ENDLESS)
    assert "fake on fake" in terminal.wait_for("> ")
    terminal.type("hi\r")
    terminal.wait_for("[a-z]{5}")
    terminal.type("\x03")
    terminal.wait_for(r"\(stopped\)\s+> ")
    terminal.type("/system be brief\r")
    terminal.wait_for(r"The system message is set\.\s+> ")
    terminal.interrupt_prompt(r"Ctrl-C again, or Ctrl-D, leaves\.\s+> ")
    terminal.interrupt_prompt(r"Good-bye\.")
    assert terminal.process.wait(PATIENCE) == 0


def test_in_a_terminal_ctrl_d_leaves_the_chat(start_on_fake: Start, tiny_path: Path, template_path: Path) -> None:
    terminal = Terminal(start_on_fake, "chat", tiny_path, "--chat-template", template_path, *ENDLESS)
    terminal.wait_for("> ")
    terminal.type("\x04")
    assert terminal.process.wait(PATIENCE) == 0


def test_in_a_terminal_ctrl_c_ends_run_with_130(start_on_fake: Start, tiny_path: Path) -> None:
    terminal = Terminal(start_on_fake, "run", tiny_path, "abc", *ENDLESS)
    terminal.wait_for("defg")
    terminal.type("\x03")
    terminal.wait_for("stopped: cancelled")
    assert terminal.process.wait(PATIENCE) == 130


def test_a_terminal_without_a_prompt_is_told_how_to_give_one(start_on_fake: Start, tiny_path: Path) -> None:
    terminal = Terminal(start_on_fake, "run", tiny_path)
    terminal.wait_for("There is no prompt. Give it after the model, or pipe it in.")
    assert terminal.process.wait(PATIENCE) == 2


def test_a_terminal_gets_tables(start_on_fake: Start, tiny_path: Path) -> None:
    terminal = Terminal(start_on_fake, "info", tiny_path)
    assert "\x1b[1m" in terminal.wait_for("architecture")


def test_a_long_loading_shows_a_bar_and_takes_it_away(start_on_fake: Start, tiny_path: Path) -> None:
    terminal = Terminal(start_on_fake, "run", tiny_path, "abc", "--backend", "slow", "-n", 3)
    assert "Loading tiny.gguf" in terminal.wait_for("42%")
    terminal.wait_for(re.escape("\x1b[2K") + "def")  # the line is cleared before the text
    assert terminal.process.wait(PATIENCE) == 0
