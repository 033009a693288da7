"""What `--json` kept of a run: a line for each cell, with what it was measured in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from inference.measuring import Cell

__all__ = ["Kept", "read"]


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
        click.ClickException: a line is none that --json wrote.
    """
    found: dict[tuple[str, str | None, str], Kept] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            kept = Kept(Cell.from_json(line), json.loads(line)["surroundings"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise click.ClickException(f"{path}, line {number} is no cell: {type(error).__name__}: {error}") from error
        found[kept.cell.case, kept.cell.model, kept.how] = kept
    return list(found.values())
