"""The command line in this process on a fake backend, and as a program of its own."""

from __future__ import annotations

import logging
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from batch_fakes import FakeBatchBackend
from click.testing import CliRunner, Result
from fakes import FakeBackend, FakeRunner

from inference.cli.program import program
from inference.registry import register, unregister

TESTS = Path(__file__).parent.parent
ABOUT_COLOUR = ("FORCE_COLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE", "NO_COLOR")
PLAIN_ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ABOUT_COLOUR} | {"TERM": "xterm"}

ON_A_FAKE = """
import sys, time
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/cli"]
from batch_fakes import FakeBatchBackend
from fakes import FakeBackend, FakeRunner
from inference.registry import register

def runner():
    fake = FakeRunner(next_token=lambda tokens: 97 + len(tokens) % 26, context_length=100_000)
    fake.before_step = lambda: time.sleep(0.005)
    return fake

class SlowToLoad(FakeBackend):
    load_options = FakeBackend.load_options | {"progress"}

    def load_model(self, path, options):
        if options.progress:
            time.sleep(0.5)
            options.progress(0.42)
        return super().load_model(path, options)

register(FakeBackend("fake", runner=runner))
register(SlowToLoad("slow", runner=runner))
register(FakeBatchBackend("batches", seconds=0.01))
sys.argv[:] = ["inference", *sys.argv[2:]]
from inference.__main__ import main
main()
"""
"""Runs the command line with a backend `fake` that says the alphabet without end, 200 letters a second, and a backend
`slow` that takes half a second to load and tells how far it is. The backend `batches` takes many prompts, four at a
time."""


def tiny_gguf(architecture: str = "fake", **texts: str) -> bytes:
    """A sound GGUF file with one tensor and the metadata `texts`, whose keys have _ for the dots."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value.encode())) + value.encode()

    metadata = {"general.architecture": architecture, **{key.replace("_", "."): value for key, value in texts.items()}}
    data = b"GGUF" + struct.pack("<IQQ", 3, 1, len(metadata))
    for key, value in metadata.items():
        data += text(key) + struct.pack("<I", 8) + text(value)
    data += text("weight") + struct.pack("<IQIQ", 1, 32, 0, 0)
    data += b"\0" * (-len(data) % 32)
    return data + bytes(128)


@pytest.fixture
def write_gguf(tmp_path: Path) -> Callable[..., Path]:
    """Writes a sound file with one tensor; keywords are `tiny_gguf`'s."""

    def write(name: str, **content: str) -> Path:
        path = tmp_path / name
        path.write_bytes(tiny_gguf(**content))
        return path

    return write


@pytest.fixture
def tiny_path(write_gguf: Callable[..., Path]) -> Path:
    return write_gguf("tiny.gguf")


@pytest.fixture
def template_path(tmp_path: Path) -> Path:
    """A chat template that writes each message as [role: content]."""
    path = tmp_path / "template.jinja"
    path.write_text("{% for message in messages %}[{{ message.role }}: {{ message.content }}]{% endfor %}{{ suffix }}")
    return path


@pytest.fixture
def fake_backend() -> Iterator[FakeBackend]:
    """The backend `fake`, whose models say "Hello there" and end."""
    backend = FakeBackend("fake", runner=lambda: FakeRunner(script=b"Hello there"))
    register(backend)
    yield backend
    unregister("fake")


@pytest.fixture
def batch_backend() -> Iterator[FakeBatchBackend]:
    """The backend `batches`, whose models take many prompts, four at a time."""
    backend = FakeBatchBackend("batches")
    register(backend)
    yield backend
    unregister("batches")


@pytest.fixture
def invoke() -> Iterator[Callable[..., Result]]:
    """Runs the command line in this process; standard input is `input`."""
    handlers, level = logging.root.handlers[:], logging.root.level

    def run(*arguments: object, input: str | bytes = "") -> Result:  # noqa: A002 - click's name for it
        result = CliRunner().invoke(program, [str(a) for a in arguments], input=input, prog_name="inference")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    yield run
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


@pytest.fixture
def inference() -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Runs the command line as a program, on the installed backends."""

    def run(*arguments: object, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "inference", *map(str, arguments)]
        return subprocess.run(
            command, input=stdin, capture_output=True, env=PLAIN_ENVIRONMENT, timeout=120, check=False
        )

    return run


@pytest.fixture
def start_on_fake() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts the command line as a program on the endless fake backend."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: object, **pipes: object) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", ON_A_FAKE, str(TESTS), *map(str, arguments)]
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **pipes}
        process = subprocess.Popen(command, env=PLAIN_ENVIRONMENT, **streams)  # type: ignore[call-overload]
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
