"""`python -m benchmarks`: measure beside the peers, print the table, say which bars were missed."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import asdict
from pathlib import Path

import click

from benchmarks.compare import command as compare
from benchmarks.machine_limits import machine_limits
from benchmarks.page import command as page
from benchmarks.plan import CASES, plan
from benchmarks.plot import command as plot
from benchmarks.repeats import command as repeats_needed
from benchmarks.share import best_of
from benchmarks.wanted import REPOSITORY, Wanted, default_models
from inference.errors import ModelFileError
from inference.measuring import Settings, measure, show, surroundings
from inference.stores import find_model

BUSY = 0.5
"""A load average above which figures scatter: an engine's threads wait for the one that lost its core."""


def case_names(_: click.Context, __: click.Parameter, value: str) -> list[str]:
    """The names in a list with commas."""
    names = [name.strip() for name in value.split(",")]
    if unknown := [name for name in names if name not in CASES]:
        raise click.BadParameter(f"no case {', '.join(unknown)}; the cases are {', '.join(CASES)}.")
    return names


def model_paths(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> list[Path]:
    """The files of the models named."""
    try:
        return [find_model(value) for value in values]
    except ModelFileError as error:
        raise click.BadParameter(str(error)) from error


@click.group(invoke_without_command=True)
@click.option("--cases", default=",".join(CASES), show_default=True, callback=case_names, help="What to measure.")
@click.option(
    "--model",
    "models",
    multiple=True,
    callback=model_paths,
    help="A GGUF file or a stored model's name; may be repeated.",
)
@click.option("--repeats", type=click.IntRange(1), default=None, help="Rounds for each cell.  [default: 24]")
@click.option("--seconds", type=float, default=None, help="Time for each cell.  [default: 90]")
@click.option("--context-length", type=int, default=2048, show_default=True, help="Tokens of context.")
@click.option("--batch-size", type=int, default=512, show_default=True, help="Tokens in one pass.")
@click.option("--threads", type=int, default=0, help="CPU threads.  [default: one for each physical core]")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Append a JSON line for each cell to FILE.")
@click.option("--quick", is_flag=True, help="Three rounds of less work: whether it runs, not how fast.")
@click.pass_context
def main(
    ctx: click.Context,
    cases: list[str],
    models: list[Path],
    repeats: int | None,
    seconds: float | None,
    context_length: int,
    batch_size: int,
    threads: int,
    json_path: Path | None,
    quick: bool,
) -> None:
    """Measure our engines beside their peers: competitors take turns in each round, ratios are taken within rounds.

    The exit code is 1 if a competitor failed or a bar was missed.
    """
    if ctx.invoked_subcommand is not None:
        return
    paths = models or default_models()
    wanted = {"context_length": context_length, "batch_size": batch_size} | ({"threads": threads} if threads else {})
    settings = Settings.here(**wanted)
    here = surroundings(REPOSITORY)
    click.echo(f"{here['platform']}, {here['machine']['cpu']['name']}", err=True)
    if (here["load_average"] or 0) > BUSY:
        click.echo(f"Other programs are running (load {here['load_average']:.2f}): expect noise.", err=True)
    wanted_repeats = repeats or (3 if quick else 24)
    cells, remarks = [], []
    for entry in plan(cases, Wanted(paths, settings, quick)):
        click.echo(f"{entry.case.name} {entry.case.model.name if entry.case.model else ''}", err=True)
        cell = measure(
            entry.case,
            entry.competitors,
            repeats=min(entry.repeats or wanted_repeats, wanted_repeats),
            seconds=seconds or (20.0 if quick else entry.seconds or 90.0),
        )
        cells.append(cell)
        if entry.remark is not None and (remark := entry.remark(cell)):
            remarks.append(remark)
        if json_path is not None:
            best = best_of(entry.case.model, settings.threads, cell) if entry.case.model else None
            around = {**surroundings(REPOSITORY), "limits": limits(settings.threads), "at_best": best}
            with json_path.open("a", encoding="utf-8") as file:
                file.write(cell.to_json(around) + "\n")
    show(cells)
    for remark in remarks:
        click.echo(remark)
    missed = [sentence for cell in cells for sentence in cell.missed]
    for sentence in missed:
        click.echo(sentence, err=True)
    sys.exit(1 if missed else 0)


def limits(threads: int) -> dict[str, float] | None:
    """What this machine does at best, as JSON takes it; None where it cannot be measured."""
    return asdict(machine_limits(threads)) if importlib.util.find_spec("torch") else None


main.add_command(compare)
main.add_command(plot)
main.add_command(page)
main.add_command(repeats_needed)

if __name__ == "__main__":
    main()
