"""The command group: finds commands, turns errors into sentences and exit codes.

Exit codes: 0 done, 1 an error, 2 wrong usage, 130 stopped by Ctrl-C, 143 by SIGTERM.
"""

from __future__ import annotations

import logging
import os
import sys
from importlib import import_module
from typing import Any

import click

from inference.cli.flags import with_flags
from inference.cli.signals import exit_code
from inference.errors import InferenceError

__all__ = ["COMMANDS", "program"]

COMMANDS = {
    "run": "Complete a prompt.",
    "chat": "Talk with a model.",
    "batch": "Complete many prompts together.",
    "classify": "Find the likeliest of some labels for many sentences.",
    "info": "Show what a model file holds.",
    "doctor": "Show which backends can run here, and what would make the others run.",
    "tune": "Measure which engine runs MODEL fastest, and remember it.",
    "bench": "Measure a model's speed on this machine.",
    "completion": "Print the script that completes this command in a shell.",
}
"""The commands in the order of `--help`, with the first sentence of their own help: `--help` imports none of them."""


class Program(click.Group):
    """Imports a command's module when that command is used, and says what went wrong in one sentence."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"inference.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            click.echo(err=True)  # the terminal shows ^C: end its line
            ctx.exit(exit_code(interrupt))
        except BrokenPipeError:
            _discard_output()
            ctx.exit(0)
        except InferenceError as error:
            _show_traceback(ctx)
            raise click.ClickException(with_flags(str(error))) from error
        except OSError as error:
            try:
                sys.stdout.flush()
            except OSError:  # it is what cannot be written
                _discard_output()
            _show_traceback(ctx)
            where = f"{error.filename}: " if error.filename else ""
            raise click.ClickException(f"{where}{error.strerror or error}.") from error


class _Lines(logging.Formatter):
    """One line for each record: tracebacks are for `--verbose`."""

    def format(self, record: logging.LogRecord) -> str:
        return f"{record.levelname.capitalize()}: {record.getMessage()}"


def _configure_logging(verbose: int) -> None:
    handler = logging.StreamHandler()
    if verbose:
        handler.setFormatter(logging.Formatter("%(relativeCreated)6d ms %(levelname)s %(name)s: %(message)s"))
    else:
        handler.setFormatter(_Lines())
        # What fails is raised as well, and told once, as the program's error.
        handler.addFilter(lambda record: record.levelno < logging.ERROR)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel({0: logging.WARNING, 1: logging.INFO}.get(verbose, logging.DEBUG))


def _show_traceback(ctx: click.Context) -> None:
    if ctx.params.get("verbose"):
        import traceback

        traceback.print_exc()


def _discard_output() -> None:
    """Nobody reads on (`| head -1`), or it cannot be written: let the interpreter's last flush go to nowhere, not into
    a second error message."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _open_closed_streams() -> None:
    """Standard streams that the caller closed (`>&-`). Input is empty then, and what is written to output is an error;
    and no file that is opened later gets the number of one, where a library would write its words into it."""
    for name, flags in (("stdin", os.O_RDONLY), ("stdout", os.O_RDONLY), ("stderr", os.O_WRONLY)):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, flags)
            setattr(sys, name, os.fdopen(descriptor, "r" if name == "stdin" else "w", encoding="utf-8"))


@click.command(cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-v", "--verbose", count=True, help="Log to standard error, with tracebacks; twice for everything.")
@click.version_option(package_name="native-inference", prog_name="inference", message="%(prog)s %(version)s")
def program(verbose: int) -> None:
    """Run language model files (GGUF) at full speed on this machine."""
    _open_closed_streams()
    _configure_logging(verbose)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a character that the terminal's encoding lacks must not end the answer
            stream.reconfigure(errors="replace")
