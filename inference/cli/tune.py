"""`inference tune`: measure which of this machine's engines is the fastest for a model, and remember it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import get_args

import click

from inference.choosing import choose
from inference.cli.model_name import MODEL
from inference.cli.report import show_json, show_rows, show_table
from inference.errors import EngineError
from inference.loading import read_model
from inference.measuring import Cell
from inference.measuring.tuning import Work, speeds_of, tune
from inference.options import LoadOptions, Workload
from inference.speeds import Speeds

__all__ = ["command"]


@click.command("tune")
@click.argument("model", type=MODEL)
@click.option(
    "--seconds", type=click.FloatRange(1), default=8.0, show_default=True, help="Time for each of four works."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(model: str, seconds: float, as_json: bool) -> None:
    """Measure which engine runs MODEL fastest, and remember it.

    From then on, files of the same architecture, block formats and size run on the fastest engine. Text that is read
    and text that is written are told apart (--workload). What is remembered counts for this machine, its drivers and
    the engines' versions. The exit code is 1 if no engine could be measured.
    """
    described = read_model(model)
    able = choose(described, LoadOptions())
    cells = tune(
        described.path, able, seconds=seconds, tell=lambda work: click.echo(f"Measuring {_title(work)} ...", err=True)
    )
    for work, entry in ((work, entry) for work, cell in cells for entry in cell.entries):
        if entry.error:
            click.echo(f"Warning: {_title(work)}, {entry.name}: {entry.error}", err=True)
        elif not entry.spread:
            raise EngineError(
                f"{_title(work)}: {entry.name} was not done once in {seconds:g} seconds, so that nothing is kept. Give "
                "it more --seconds, and end other programs."
            )
    found = speeds_of(described, able, cells)
    if not any(rate for each in found for rates in each.rates.values() for rate in rates.values()):
        raise EngineError("No engine could be measured, so that nothing is kept.")
    where = Speeds.kept().with_(found).keep()
    chosen = {workload: choose(described, LoadOptions(workload=workload))[0] for workload in get_args(Workload)}
    if as_json:
        verdicts = {workload: each.backend.name for workload, each in chosen.items()}
        show_json({"speeds": [asdict(each) for each in found], "chosen": verdicts, "kept_in": str(where)})
        return
    show_table(("Work", *(f"{each.backend.name} {each.device.device}" for each in able)), _rows(cells))
    show_rows([(f"fastest for {workload}", each.backend.name) for workload, each in chosen.items()])
    show_rows([("kept in", str(where))])


def _rows(cells: list[tuple[Work, Cell]]) -> Iterator[tuple[str, ...]]:
    for work, cell in cells:
        figures = (f"{entry.spread.median:.0f} tokens/s" if entry.spread else "failed" for entry in cell.entries)
        yield _title(work), *figures


def _title(work: Work) -> str:
    return f"{work.workload}, {work.name}"
