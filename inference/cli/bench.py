"""`inference bench`: how fast a model runs on this machine's own backends."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from inference.choosing import backends_for, support_of
from inference.cli.model_name import MODEL
from inference.errors import ModelNotFoundError
from inference.loading import read_model
from inference.measuring import (
    SAMPLED,
    Case,
    Decode,
    Load,
    Native,
    Prefill,
    Settings,
    measure,
    show,
    surroundings,
)
from inference.options import LoadOptions
from inference.registry import get_backend
from inference.stores import demo_model

if TYPE_CHECKING:
    from inference.folder import Folder
    from inference.gguf.reader import Header

__all__ = ["command"]


@click.command("bench")
@click.argument("model", type=MODEL, required=False)
@click.option(
    "--backend", "backends", multiple=True, help="An engine to measure; may be repeated.  [default: all here]"
)
@click.option("--device", help="A device of the engines, as `inference doctor` shows it.  [default: each one's best]")
@click.option("--context-length", type=click.IntRange(1), default=2048, show_default=True, help="Tokens of context.")
@click.option("--batch-size", type=click.IntRange(1), default=512, show_default=True, help="Tokens in one pass.")
@click.option("--threads", type=click.IntRange(0), default=0, help="CPU threads; 0 is the number of physical cores.")
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True, help="Rounds for each figure.")
@click.option("--seconds", type=click.FloatRange(0), default=30.0, show_default=True, help="Time for each figure.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON line for each figure.")
@click.pass_context
def command(
    ctx: click.Context,
    model: str | None,
    backends: tuple[str, ...],
    device: str | None,
    context_length: int,
    batch_size: int,
    threads: int,
    repeats: int,
    seconds: float,
    as_json: bool,
) -> None:
    """Measure a model's speed on this machine.

    MODEL is a GGUF file, a Hugging Face or MLX folder, or a name from Ollama's or LM Studio's local store; without it
    the installed demo model is measured. The figures: tokens per second of decoding and of prefill, and the seconds
    from loading to the first token; the median of the rounds, and their quartiles.
    """
    described = _model(model)
    changes = {"context_length": context_length, "batch_size": batch_size} | ({"threads": threads} if threads else {})
    names = [get_backend(name).name for name in backends] or _available(
        described, LoadOptions(device=device, context_length=context_length)
    )
    cells = []
    for case in _cases(described.path, Settings.here(**changes), same_text=len(names) == 1):
        click.echo(f"Measuring {case.name} ...", err=True)
        cell = measure(case, [Native(name, device=device) for name in names], repeats=repeats, seconds=seconds)
        cells.append(cell)
        if as_json:
            click.echo(cell.to_json(surroundings()))
    if not as_json:
        show(cells)
    if not any(entry.spread for cell in cells for entry in cell.entries):
        ctx.exit(1)  # the table says why


def _available(model: Header | Folder, options: LoadOptions) -> list[str]:
    """The backends that can run the model here; all, where none can, so that the table says why."""
    every = backends_for(model)
    usable = [
        backend.name
        for backend in every
        if any(entry.available and options.device in (None, entry.device) for entry in backend.probe())
        and support_of(backend, model, options).supported
    ]
    return usable or [backend.name for backend in every]


def _model(name: str | None) -> Header | Folder:
    """The model, sound as far as can be said before its weights: that is said here once, and not by each figure."""
    path = name if name is not None else demo_model()
    if path is None:
        raise ModelNotFoundError("No MODEL was named, and the demo model is not installed. Name a GGUF file.")
    return read_model(path)


def _cases(model: Path, settings: Settings, *, same_text: bool) -> Sequence[Case]:
    return [
        Decode(model, settings, same_text=same_text),
        Decode(model, settings, sampling=SAMPLED),
        Prefill(model, settings),
        Load(model, settings),
    ]
