"""`inference batch`: many prompts from a file, their texts into another, from which a killed batch resumes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import click

from inference.cli.batch_model import PromptEncoder, open_batch_model, reason
from inference.cli.fingerprint import run_fingerprint
from inference.cli.flags import (
    Command,
    Sampling,
    batch_load_options,
    generate_options,
    template_options,
    with_flags,
)
from inference.cli.model_name import MODEL
from inference.cli.progress import Count
from inference.cli.prompts import Line, PromptFile, is_text_file
from inference.cli.results import Results, ResultsFile, ResultsPipe
from inference.cli.signals import exit_code, raises_terminated
from inference.errors import InferenceError
from inference.options import GenerateOptions, LoadOptions
from inference.protocols import BatchModel
from inference.stores import find_model
from inference.types import FinishReason, GenerateStats

__all__ = ["command"]

NO_FIGURES = GenerateStats()
FIGURES = ("prompt_tokens", "cached_tokens", "generated_tokens")


@click.command("batch", cls=Command)
@click.argument("model", type=MODEL)
@click.argument("prompts", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, allow_dash=True),
    default="-",
    help="Where the results go; the same command resumes from it.  [default: standard output]",
)
@click.option("--overwrite", is_flag=True, help="Replace the results that are there, instead of resuming.")
@click.option("--chat", is_flag=True, help='Pass each "prompt" as a user\'s message through the chat template.')
@template_options
@generate_options
@batch_load_options
@click.pass_context
def command(
    ctx: click.Context,
    model: str,
    prompts: str,
    output: str,
    overwrite: bool,
    chat: bool,
    template_options: Mapping[str, Any],
    sampling: Sampling,
    load_options: LoadOptions,
) -> None:
    """Complete many prompts together.

    PROMPTS has one JSON object on each line: {"prompt": "Once upon"} or {"messages": [{"role": "user", "content":
    "Hi"}]}, and if wanted an "id". Of a .txt file each line is a prompt as it stands. "-" is standard input. Blank
    lines are left out. Options hold for all prompts.

    Each result is one line of JSON, written when its prompt ended, in any order: "index" (its line in PROMPTS, from 0),
    "id", "text", "finish_reason", the numbers of tokens, and "error" for one that failed.

    After a kill or Ctrl-C the same command resumes: lines that have their text are left alone, failed ones are tried
    again. Lines may be added at the end of PROMPTS; any other change to it, to the model or to an option that changes
    the text is refused. Prompts from a pipe cannot be resumed.

    The exit code is 1 if a prompt failed, 130 after Ctrl-C, 143 after SIGTERM.
    """
    lines = PromptFile(prompts, is_text=is_text_file(prompts))
    others = {"chat": chat, "template_options": template_options}
    run = run_fingerprint(find_model(model), sampling, load_options, others)
    with raises_terminated(), _results(ctx, lines, output, run, overwrite=overwrite) as results:
        todo = Todo.of(lines, results)
        if todo.is_done:
            results.begin()
            click.echo(todo.nothing_left(), err=True)
            return
        with open_batch_model(model, load_options) as opened:
            options = sampling.options(opened.info())
            encoder = PromptEncoder(opened, chat=chat, template_options=template_options)
            results.begin()
            count = Count("prompts", total=todo.total, already=todo.finished, visible=not results.on_terminal)
            batch = Batch(todo, encoder, results, count)
            try:
                with count:
                    batch.serve(opened, options)
            except KeyboardInterrupt as interrupt:
                click.echo(f"Stopped: {count.summary()}. {todo.way_on(results)}", err=True)
                ctx.exit(exit_code(interrupt))
    click.echo(batch.summary(), err=True)
    if count.failed:
        ctx.exit(1)


def _results(ctx: click.Context, lines: PromptFile, output: str, run: str, *, overwrite: bool) -> Results:
    path = Path(output)
    if output == "-" or (path.exists() and not path.is_file()):
        if overwrite:
            raise click.UsageError("--overwrite has an effect only with a file: name one with -o.", ctx)
        return ResultsPipe(output, run)
    if lines.rereadable and path.exists() and path.samefile(lines.path):
        raise click.UsageError(f"{output} holds the prompts: name another file for the results.", ctx)
    return ResultsFile(output, run, overwrite=overwrite)


@dataclass(frozen=True, slots=True)
class Todo:
    """The lines that have no result yet."""

    lines: PromptFile
    finished: int
    """How many have theirs already."""
    total: int | None
    """How many prompts there are; None where that cannot be known."""
    done: bytearray
    """1 for each line that has its result, by index; may end before the lines do."""

    @classmethod
    def of(cls, lines: PromptFile, results: Results) -> Self:
        """Compares the prompts with the results that are there.

        Raises:
            click.ClickException: these results are not to be resumed from, not with these prompts.
        """
        file = results if isinstance(results, ResultsFile) else None
        if lines.rereadable:
            fingerprints = lines.fingerprints()
            done = file.finished(fingerprints) if file else bytearray()
            return cls(lines, done.count(1), len(fingerprints) - fingerprints.count(0), done)
        if file and not file.is_empty():
            raise click.ClickException(
                f"{file.name} holds results, and {lines.name} cannot be read twice to resume from them. Give the "
                f"prompts as a file, name another file with -o, or replace it with --overwrite."
            )
        if file:
            click.echo(f"Note: {lines.name} cannot be read twice: this batch cannot be resumed.", err=True)
        return cls(lines, 0, None, bytearray())

    @property
    def is_done(self) -> bool:
        """Whether nothing is left."""
        return self.finished == self.total

    def nothing_left(self) -> str:
        """What to tell somebody who wants to go on."""
        if not self.total:
            return f"{self.lines.name} holds no prompt."
        return f"Nothing is left to do: all {self.total} prompts have their result."

    def __iter__(self) -> Iterator[Line]:
        for line in self.lines:
            if line.index >= len(self.done) or not self.done[line.index]:
                yield line

    def way_on(self, results: Results) -> str:
        """What to tell somebody who stopped."""
        if self.lines.rereadable and isinstance(results, ResultsFile):
            return f"{results.name} keeps what was done; the same command resumes from it."
        return "It cannot be resumed: that takes a file of prompts, and one for the results (-o)."


@dataclass(slots=True)
class Running:
    """A prompt that has not ended."""

    line: Line
    id: str | int | float | None
    texts: list[str] = field(default_factory=list)


class Batch:
    """Takes prompts to the model and what comes of them to the results, one as it ends."""

    def __init__(self, todo: Todo, encoder: PromptEncoder, results: Results, count: Count) -> None:
        self._todo = todo
        self._encoder = encoder
        self._results = results
        self._count = count
        self._running: dict[int, Running] = {}
        self._first_failure = ""

    def serve(self, model: BatchModel, options: GenerateOptions) -> None:
        """Run all prompts to their ends."""
        for number, token in model.batch_generate(self._prompts(), options=options):
            running = self._running[number]
            if token.text:
                running.texts.append(token.text)
            self._count.add(tokens=token.id >= 0)
            if (finish := token.finish) is not None:
                del self._running[number]
                error = None if finish.error is None else reason(finish.error, number)
                self._end(running, finish.reason, finish.stats, error)

    def summary(self) -> str:
        """The figures, and what failed, in one line."""
        return f"{self._count.summary()}{self._first_failure}"

    def _prompts(self) -> Iterator[str | list[int]]:
        taken = itertools.count()
        for line in self._todo:
            entry = self._todo.lines.entry(line)
            running = Running(line, entry.id)
            try:
                prompt = self._encoder.encode(entry)
            except InferenceError as error:
                self._end(running, "error", NO_FIGURES, with_flags(str(error)))
            else:
                self._running[next(taken)] = running
                yield prompt

    def _end(self, running: Running, why: FinishReason, stats: GenerateStats, error: str | None) -> None:
        content: dict[str, Any] = {} if running.id is None else {"id": running.id}
        content |= {"text": "".join(running.texts), "finish_reason": why}
        content |= {name: getattr(stats, name) for name in FIGURES}
        if error is not None:
            content["error"] = error
            self._first_failure = self._first_failure or f", the first: line {running.line.number}: {error}"
        self._results.append(running.line, content)
        self._count.add(done=1, failed=error is not None)
