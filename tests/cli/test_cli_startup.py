"""What the program costs before it does anything, and what it says about itself."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import Result

from inference.cli.program import COMMANDS, program

HEAVY = {"rich", "numpy", "jinja2", "llama_cpp", "inference_llama_cpp", "torch", "mlx", "asyncio", "ctypes", "readline"}


def test_help_imports_nothing_heavy_and_no_command() -> None:
    script = (
        "import sys; sys.argv = ['inference', '--help']\n"
        "from inference.__main__ import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "sys.stderr.write(' '.join(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: inference ")
    loaded = set(done.stderr.split())
    assert not loaded & HEAVY
    assert not loaded & {f"inference.cli.{name}" for name in COMMANDS}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_group_tells_of_each_command_what_the_command_tells_of_itself(name: str) -> None:
    context = click.Context(program)
    command = program.get_command(context, name)
    assert command is not None
    assert command.name == name
    assert command.help is not None
    assert command.help.split("\n\n")[0].replace("\n", " ") == COMMANDS[name]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(invoke: Callable[..., Result], name: str) -> None:
    result = invoke(name, "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: inference {name} ")


def test_without_click_one_sentence_says_what_to_install() -> None:
    script = (
        "import sys, importlib.util as u\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'click' else find(name, *rest)\n"
        "from inference.__main__ import main\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "Error: the command line needs click. Try: pip install 'native-inference[cli]'\n"


def test_the_version_is_the_distributions(invoke: Callable[..., Result]) -> None:
    from importlib.metadata import version

    assert invoke("--version").stdout == f"inference {version('native-inference')}\n"


@pytest.mark.parametrize(
    "arguments", [["frobnicate"], ["run", "--temprature", "1"], ["run", "a", "b", "c"], ["info"], []]
)
def test_wrong_usage_exits_with_2(invoke: Callable[..., Result], arguments: list[str]) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""


def test_a_misspelt_flag_is_named_with_the_right_one(invoke: Callable[..., Result]) -> None:
    assert "--temperature" in invoke("run", "--temprature", "1").stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_the_shell(invoke: Callable[..., Result], shell: str) -> None:
    result = invoke("completion", shell)
    assert result.exit_code == 0
    assert f"_INFERENCE_COMPLETE={shell}_complete" in result.stdout


def test_a_shell_that_asks_gets_the_models_here(tiny_path: Path) -> None:
    asking = {"_INFERENCE_COMPLETE": "bash_complete", "COMP_WORDS": "inference run ti", "COMP_CWORD": "2"}
    command = [sys.executable, "-m", "inference"]
    done = subprocess.run(command, env=os.environ | asking, cwd=tiny_path.parent, capture_output=True, check=True)
    assert done.stdout.split() == [b"plain,tiny.gguf"]
