"""Cells as a table: for a terminal, or as Markdown when piped."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from statistics import median

from inference.measuring.case import ABSOLUTE
from inference.measuring.cell import Cell, Entry, Spread

__all__ = ["markdown", "rows", "show"]

HEADINGS = ("case", "model", "competitor", "median (quartiles)", "ours / it (quartiles)", "bar", "verdict", "beside")


def rows(cells: Iterable[Cell]) -> Iterator[tuple[str, ...]]:
    """One row for each competitor of each cell, as `HEADINGS`. With several engines of our own, a peer has a row
    for each of the ratios."""
    for cell in cells:
        for entry in cell.entries:
            yield from _entry_rows(cell, entry)


def markdown(cells: Iterable[Cell]) -> str:
    """The table in Markdown, columns aligned."""
    table = [[cell.replace("|", "\\|") for cell in row] for row in _table(cells)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in table
    ]
    lines.insert(1, "| " + " | ".join("-" * width for width in widths) + " |")
    return "\n".join(lines)


def show(cells: Iterable[Cell]) -> None:
    """Print the table to standard output."""
    if not sys.stdout.isatty():
        sys.stdout.write(markdown(cells) + "\n")
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    headings, *body = _table(cells)
    table = Table(*headings, box=SIMPLE_HEAD, pad_edge=False)
    for row in body:
        table.add_row(*[Text(cell, "red" if cell in ("missed", "missed?", "failed") else "") for cell in row])
    Console().print(table)


def _table(cells: Iterable[Cell]) -> list[tuple[str, ...]]:
    """Headings and rows, without the columns that no row fills."""
    body = list(rows(cells))
    filled = [number for number in range(len(HEADINGS)) if any(row[number] for row in body)]
    return [tuple(row[number] for number in filled) for row in (HEADINGS, *body)]


def _entry_rows(cell: Cell, entry: Entry) -> Iterator[tuple[str, ...]]:
    begin = (cell.case, cell.model or "", entry.name)
    if entry.skipped or entry.error:
        yield (*begin, entry.skipped or entry.error or "", "", "", "skipped" if entry.skipped else "failed", "")
        return
    figure = _spread(entry.spread, cell.unit)
    if cell.cut:
        figure += f", {len(entry.samples)} rounds, cut"
    beside = "; ".join(f"{name} {_number(median(values))}" for name, values in entry.beside.items())
    ratios = [ratio for ratio in cell.ratios if ratio.peer == entry.name]
    for ratio in ratios:
        bar = str(ratio.bar) if ratio.bar else ""
        yield (*begin, figure, _spread(ratio.spread, ""), bar, _verdict(ratio.met, ratio.certain), beside)
    if not ratios:
        absolute = cell.bars.get(ABSOLUTE) if entry.ours else None
        met = absolute.met(entry.spread.median) if absolute and entry.spread else None
        yield (*begin, figure, "", f"{absolute} {cell.unit}" if absolute else "", _verdict(met), beside)


def _spread(spread: Spread | None, unit: str) -> str:
    if spread is None:
        return ""
    low, median, high = (_number(value) for value in (spread.low, spread.median, spread.high))
    return f"{median} {unit} ({low} to {high})".replace("  ", " ")


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:.0f}"
    return f"{value:#.4g}" if abs(value) >= 1 else f"{value:.3f}" if value else "0"


def _verdict(met: bool | None, certain: bool = True) -> str:
    """The word, with a question mark where more rounds might turn it."""
    return {True: "met", False: "missed", None: ""}[met] + ("" if certain else "?")
