"""`inference chat`: a conversation in the terminal, or read from a pipe line by line."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import click

from inference.cli.flags import Command, Sampling, generate_options, load_options, template_options, with_flags
from inference.cli.lines import TOO_LONG, read_line
from inference.cli.model_name import MODEL
from inference.cli.opening import open_model, require_chat_template
from inference.errors import InferenceError
from inference.options import GenerateOptions, LoadOptions
from inference.protocols import TextModel
from inference.stream import TokenStream
from inference.types import Message

__all__ = ["command"]

HELP = """\
/reset         forget the conversation, keep the system message
/system TEXT   set the system message; without TEXT remove it
/help          this list
/exit          leave; so does Ctrl-D
Ctrl-C         stop the answer"""


@click.command("chat", cls=Command)
@click.argument("model", type=MODEL)
@click.option("--system", metavar="TEXT", help="The system message to begin with.")
@template_options
@generate_options
@load_options
@click.pass_context
def command(
    ctx: click.Context,
    model: str,
    system: str | None,
    template_options: Mapping[str, Any],
    sampling: Sampling,
    load_options: LoadOptions,
) -> None:
    """Talk with a model.

    MODEL is a GGUF file, a Hugging Face or MLX folder, or a name from Ollama's or LM Studio's local store. Each line is
    a message; lines that begin with / are commands, and /help lists them. From a pipe, each line of it is a message,
    answers go to standard output and everything else to standard error; the exit code is then 1 if a message could not
    be answered.
    """
    with open_model(model, load_options) as opened:
        require_chat_template(opened)
        conversation = Conversation(opened, sampling.options(opened.info()), template_options, system)
        lines = Lines()
        if lines.from_terminal:
            info = opened.info()
            _note(f"{info.name} on {info.backend}, {info.device}. /help lists the commands, Ctrl-D leaves.")
        _converse(conversation, lines)
    if conversation.failed and not lines.from_terminal:
        ctx.exit(1)


def _converse(conversation: Conversation, lines: Lines) -> None:
    """Read messages and commands until they end, or until Ctrl-C comes twice while nothing is being answered."""
    interrupted = False
    while True:
        try:
            line = lines.read().strip()
            interrupted = False
            if line.startswith("/"):
                if not _obey(conversation, line):
                    return
            elif line:
                conversation.answer(line)
        except EOFError:
            if lines.from_terminal:
                _note("\nGood-bye.")
            return
        except KeyboardInterrupt:
            if interrupted:
                _note("\nGood-bye.")
                return
            interrupted = True
            _note("\nCtrl-C again, or Ctrl-D, leaves.")
        except UnreadableLineError as error:
            conversation.fail(f"That line is {error}.")


def _obey(conversation: Conversation, line: str) -> bool:
    """Carry out a command; returns whether the conversation goes on."""
    name, _, rest = line.partition(" ")
    match name:
        case "/exit" | "/quit" | "/bye":
            return False
        case "/help":
            _note(HELP)
        case "/reset":
            conversation.turns.clear()
            _note("The conversation is forgotten.")
        case "/system":
            conversation.system = rest.strip() or None
            _note("The system message is set." if conversation.system else "There is no system message now.")
        case _:
            _note(f"There is no command {name}. /help lists the commands.")
    return True


@dataclass
class Conversation:
    """The messages so far, and the model that answers them."""

    model: TextModel
    options: GenerateOptions
    template_options: Mapping[str, Any]
    system: str | None
    turns: list[Message] = field(default_factory=list)
    failed: bool = False
    """Whether a message could not be answered."""

    def answer(self, text: str) -> None:
        """Stream the answer to `text`. Both become part of the conversation once there is an answer, also one that
        Ctrl-C cut short."""
        head = [Message("system", self.system)] if self.system else []
        question = Message("user", text)
        pieces: list[str] = []
        try:
            stream = self._stream([*head, *self.turns, question], pieces)
        except InferenceError as error:
            self.fail(with_flags(str(error)))
            return
        finally:
            if pieces:
                _write("\n")
        if note := self._ending(stream):
            _note(note)
        if pieces or stream.finish_reason == "stop":
            self.turns += [question, Message("assistant", "".join(pieces))]

    def _ending(self, stream: TokenStream) -> str | None:
        """What to say of an answer that did not end by itself."""
        match stream.finish_reason:
            case "cancelled":
                return "(stopped)"
            case "timeout":
                return "(time is up)"
            case "length" if stream.stats and stream.stats.generated_tokens >= self.options.max_tokens:
                return f"(cut after {self.options.max_tokens} tokens; --max-tokens sets another limit)"
            case "length":
                return "(the context is full; /reset forgets the conversation)"
        return None

    def fail(self, sentence: str) -> None:
        """Say why there is no answer."""
        self.failed = True
        _note(f"Error: {sentence}")

    def _stream(self, messages: list[Message], pieces: list[str]) -> TokenStream:
        """Write the answer as it comes and collect it in `pieces`. Ctrl-C ends it."""
        with self.model.chat(messages, options=self.options, template_options=self.template_options) as stream:
            try:
                for token in stream:
                    if token.text:
                        pieces.append(token.text)
                        _write(token.text)
            except KeyboardInterrupt:
                stream.cancel()
        return stream


class UnreadableLineError(Exception):
    """What a line is instead of one that can be read."""


class Lines:
    """Lines from the terminal, with editing and history where Python has readline, or from a pipe."""

    def __init__(self) -> None:
        self.from_terminal = sys.stdin.isatty()
        if self.from_terminal:
            with contextlib.suppress(ImportError):  # Windows has none; its console edits lines itself
                import readline  # noqa: F401 - importing it gives `input` line editing

    def read(self) -> str:
        """The next line.

        Raises:
            EOFError: there is none.
            UnreadableLineError: it is too long, or no text. The line after it can be read.
        """
        if self.from_terminal and sys.stdout.isatty():
            return input("> ")
        if self.from_terminal:  # answers go to a file: keep the prompt out of it
            click.echo("> ", nl=False, err=True)
        line, is_whole = read_line(sys.stdin.buffer)
        if not line:
            raise EOFError
        if not is_whole:
            raise UnreadableLineError(TOO_LONG)
        try:
            return line.decode()
        except UnicodeDecodeError as error:
            raise UnreadableLineError(f"not UTF-8 text: {error}") from error


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _note(text: str) -> None:
    click.echo(text, err=True)
