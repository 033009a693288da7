"""What a command reports: tables on a terminal, stable `key: value` lines when piped, JSON when asked for."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

__all__ = ["bytes_text", "json_text", "plain", "show_json", "show_rows", "show_table"]


def show_json(content: Any) -> None:
    """Print one JSON document."""
    click.echo(json_text(content, indent=2))


def json_text(content: Any, indent: int | None = None) -> str:
    """`content` as JSON in ASCII. Paths become text, sets sorted lists; NaN and infinities, which JSON lacks, null."""
    return json.dumps(_jsonable(content), indent=indent, allow_nan=False)


def _jsonable(content: Any) -> Any:
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {str(key): _jsonable(value) for key, value in content.items()}
    if isinstance(content, set | frozenset):
        return sorted(map(_jsonable, content))
    if isinstance(content, str | int | None):
        return content
    return [_jsonable(item) for item in content] if isinstance(content, Iterable) else str(content)


def show_rows(rows: Iterable[tuple[str, str]]) -> None:
    """Print keys and their values."""
    rows = [(key, plain(value)) for key, value in rows]
    if not sys.stdout.isatty():
        click.echo("".join(f"{key}: {value}\n" for key, value in rows), nl=False)
        return
    from rich.console import Console
    from rich.text import Text

    width = max((len(key) for key, _ in rows), default=0)
    for key, value in rows:
        # Soft: the terminal breaks the line, so that a command copied from it has no line breaks of ours.
        Console().print(Text.assemble((key.ljust(width), "bold"), "  ", value), soft_wrap=True)


def show_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table. When piped, a row is a line: `first: second; third`, empty cells left out."""
    rows = [[plain(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        click.echo("".join(f"{first}: {'; '.join(filter(None, rest))}\n" for first, *rest in rows), nl=False)
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*headings, box=SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)


def plain(text: str) -> str:
    """One line that a terminal may show: a file's own text must not move the cursor or break the line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def bytes_text(size: int | None) -> str:
    """A size in words: "91.8 MiB"; "unknown" for None."""
    if size is None:
        return "unknown"
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size} bytes"
