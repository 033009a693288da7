"""`inference classify`: which of some labels a model goes on with, for many sentences."""

from __future__ import annotations

import math
import re
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import click

from inference.cli.batch_model import open_batch_model, reason
from inference.cli.flags import Command, classify_load_options
from inference.cli.model_name import MODEL
from inference.cli.progress import Count
from inference.cli.prompts import Entry, Line, PromptFile, is_jsonl_file
from inference.cli.report import json_text, plain
from inference.cli.signals import exit_code, raises_terminated
from inference.options import LoadOptions
from inference.protocols import BatchModel
from inference.types import Classification

__all__ = ["command"]

PLACE = "{}"
ESCAPES = {r"\n": "\n", r"\t": "\t", r"\\": "\\"}
"""A shell passes these on as they are typed, and a line break is what a template most often has."""


@dataclass(frozen=True, slots=True)
class Template:
    """What stands around a sentence."""

    before: str = ""
    after: str = ""

    @classmethod
    def parsed(cls, _ctx: click.Context, _param: click.Parameter, text: str | None) -> Template | None:
        """The template that `text` writes, "Review: {}\\nIt is"; None for None."""
        if text is None:
            return None
        before, *after = re.sub(r"\\[nt\\]", lambda match: ESCAPES[match[0]], text).split(PLACE)
        if len(after) != 1:
            raise click.BadParameter(f"{text!r} must have {PLACE} once, where the sentence goes.")
        return cls(before, after[0])


class LabelsCommand(Command):
    """A command whose `--labels` takes all words up to the next flag, as click's own options cannot."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, list(_with_labels_apart(ctx, args)))


@click.command("classify", cls=LabelsCommand)
@click.argument("model", type=MODEL)
@click.argument("sentences", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option(
    "--labels",
    "--label",
    multiple=True,
    metavar="LABEL...",
    help="The labels, each exactly as it follows the sentence: most begin with a space. All words up to the next flag.",
)
@click.option(
    "--template",
    metavar="TEXT",
    callback=Template.parsed,
    help=r'What the model reads, with {} for the sentence: "Review: {}\nIt is". \n is a line break.',
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each sentence, with all labels.")
@classify_load_options
@click.pass_context
def command(
    ctx: click.Context,
    model: str,
    sentences: str,
    labels: tuple[str, ...],
    template: Template | None,
    as_json: bool,
    load_options: LoadOptions,
) -> None:
    """Find the likeliest of some labels for many sentences.

    SENTENCES has one on each line; of a .jsonl file each line is an object with a "prompt", and if wanted an "id". "-"
    is standard input. Blank lines are left out. What the sentences share goes into --template and is computed once.

    \b
    inference classify model.gguf reviews.txt --template "Review: {}\\nIt is" --labels " good" " bad"

    A line of the output is the likeliest label, its probability among the labels, and the sentence, with tabs between
    them, in the order of the input. Without --labels it is the likeliest next token and its probability. A sentence
    that fails has no label, its reason goes to standard error, and the exit code is 1.
    """
    _require_good(ctx, labels)
    lines = PromptFile(sentences, is_text=not is_jsonl_file(sentences))
    total = sum(1 for _ in lines) if lines.rereadable else None
    with raises_terminated(), open_batch_model(model, load_options) as opened:
        count = Count("sentences", total=total, visible=not sys.stdout.isatty())
        try:
            with count:
                for answer in _answers(opened, lines, labels, template):
                    sys.stdout.write(answer.json() if as_json else answer.row())
                    sys.stdout.flush()
                    if answer.error is not None and not as_json:
                        count.note(f"Line {answer.line.number}: {answer.error}")
                    count.add(done=1, failed=answer.error is not None)
        except KeyboardInterrupt as interrupt:
            click.echo(f"Stopped: {count.summary()}.", err=True)
            ctx.exit(exit_code(interrupt))
    click.echo(count.summary(), err=True)
    if count.failed:
        ctx.exit(1)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one line."""

    line: Line
    entry: Entry
    result: Classification
    error: str | None
    """Why there is no label."""

    def row(self) -> str:
        """A line of text: label, probability, sentence."""
        label = probability = ""
        if self.error is None:
            label, share = self._likeliest()
            probability = f"{share:.6f}"
        return f"{plain(label)}\t{probability}\t{plain(self._sentence())}\n"

    def json(self) -> str:
        """A line of JSON: all that is known."""
        content: dict[str, Any] = {"index": self.line.index}
        if self.entry.id is not None:
            content["id"] = self.entry.id
        content["sentence"] = self._sentence()
        result = self.result
        if self.error is not None:
            content["error"] = self.error
        elif result.token is not None:
            content["token"] = {"id": result.token.id, "text": result.token.text, "logprob": result.token.logprob}
        else:
            content |= {"label": result.label, "probabilities": result.probabilities, "logprobs": result.logprobs}
        return json_text(content) + "\n"

    def _likeliest(self) -> tuple[str, float]:
        token = self.result.token
        if token is not None:
            return token.text, math.nan if token.logprob is None else math.exp(token.logprob)
        label = self.result.label or ""
        return label, self.result.probabilities[label]

    def _sentence(self) -> str:
        prompt = self.entry.prompt
        return prompt if isinstance(prompt, str) else self.line.content.decode(errors="replace")


def _answers(
    model: BatchModel, lines: PromptFile, labels: Sequence[str], template: Template | None
) -> Iterator[Answer]:
    """What came of each line, in order."""
    waiting: deque[tuple[Line, Entry]] = deque()

    def prompts() -> Iterator[str | list[int]]:
        for line in lines:
            entry = _usable(lines.entry(line), template)
            waiting.append((line, entry))
            # A line that is no prompt keeps its place as an empty one, which fails.
            yield _filled(template, entry.prompt) if entry.error is None and entry.prompt is not None else []

    for number, result in enumerate(model.classify(prompts(), labels=labels or None)):
        line, entry = waiting.popleft()
        error = None if result.error is None else reason(result.error, number)
        yield Answer(line, entry, result, entry.error or error)


def _usable(entry: Entry, template: Template | None) -> Entry:
    if entry.messages is not None:
        return replace(entry, error='A sentence is a "prompt", not "messages".')
    if template is not None and isinstance(entry.prompt, list):
        return replace(entry, error="A template takes text, not token ids.")
    return entry


def _filled(template: Template | None, prompt: str | list[int]) -> str | list[int]:
    if template is None or not isinstance(prompt, str):
        return prompt
    return template.before + prompt + template.after


def _require_good(ctx: click.Context, labels: Sequence[str]) -> None:
    """Refuse labels before a model is loaded."""
    for position, label in enumerate(labels):
        if not label:
            raise click.UsageError("A label is empty: it would follow everything.", ctx)
        if label in labels[:position]:
            raise click.UsageError(f"The label {label!r} is there twice.", ctx)


def _with_labels_apart(ctx: click.Context, words: Sequence[str]) -> Iterator[str]:
    """The words of the command line, with a `--labels` before each label."""
    in_labels = False
    for position, word in enumerate(words):
        following = words[position + 1 : position + 2]
        if word == "--":
            yield from words[position:]
            return
        if word == "--labels":
            if (not following or _is_flag(following[0])) and not ctx.resilient_parsing:
                raise click.UsageError('--labels needs labels: --labels " positive" " negative".', ctx)
            in_labels = True
        elif _is_flag(word):
            in_labels = word.startswith("--labels=")
            yield word
        else:
            yield f"--labels={word}" if in_labels else word


def _is_flag(word: str) -> bool:
    return word.startswith("-") and word != "-"
