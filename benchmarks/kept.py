"""What `--json` kept of a run: a line for each cell, with what it was measured in."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from inference.measuring import Cell

__all__ = ["Kept", "read", "require_one_run"]


@dataclass(frozen=True, slots=True)
class Kept:
    """A line."""

    cell: Cell
    surroundings: Mapping[str, Any]
    """The machine, its limits, versions, the commit, the command's arguments."""

    @property
    def at_best(self) -> float | None:
        """Tokens per second that the machine's limits allow in this work; None where that is not reckoned."""
        best: float | None = self.surroundings.get("at_best")
        return best

    @property
    def how(self) -> str:
        """What else two cells must share to be the same measurement: settings, sizes, competitors."""
        names = sorted(entry.name for entry in self.cell.entries)
        return json.dumps([self.cell.facts, names], sort_keys=True, default=str)


def read(path: Path) -> list[Kept]:
    """The lines of a file; the last one where something was measured again.

    Raises:
        click.ClickException: it cannot be read, or a line is none that --json wrote.
    """
    found: dict[tuple[str, str | None, str], Kept] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise click.ClickException(f"{path} cannot be read as what --json wrote: {error}") from error
    for number, line in enumerate(lines, 1):
        try:
            kept = Kept(Cell.from_json(line), json.loads(line)["surroundings"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise click.ClickException(f"{path}, line {number} is no cell: {type(error).__name__}: {error}") from error
        found[kept.cell.case, kept.cell.model, kept.how] = kept
    return list(found.values())


def require_one_run(lines: Sequence[Kept]) -> None:
    """Nothing, if the lines are of one run.

    Raises:
        click.ClickException: there is none, or they are of several runs.
    """
    if not lines:
        raise click.ClickException("There is no run in it: measure with --json.")
    runs = {json.dumps([each.surroundings.get("arguments"), each.surroundings.get("commit")]) for each in lines}
    if len(runs) > 1:
        raise click.ClickException(f"It holds lines of {len(runs)} runs: measure with --json into a new file.")
