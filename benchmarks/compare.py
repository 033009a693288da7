"""`python -m benchmarks compare OLD NEW`: what got slower between two runs, by ratios that were taken within each.

A machine is faster at some hours than at others, so figures of two runs are not compared, only our engine's by a peer's
of the same run.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import click

from benchmarks.kept import read
from inference.measuring import Cell, Ratio
from inference.measuring.cell import median_interval

__all__ = ["Change", "changes", "command"]

RATES = ("/s",)
"""How units end of which more is better; of all others (seconds, bytes, modules) less is."""
Key: TypeAlias = tuple[str, str | None, str]
"""Case, model, and what was measured with which settings."""


@dataclass(frozen=True, slots=True)
class Change:
    """One of our engines beside a peer, in an old run and in a new one."""

    case: str
    model: str | None
    old: Ratio
    new: Ratio
    more_is_better: bool

    @property
    def speed(self) -> float:
        """How fast the new one is by the old: 0.9 is a tenth slower; 0 if nothing became something to wait for."""
        better, worse = self.new.spread.median, self.old.spread.median
        if not self.more_is_better:
            better, worse = worse, better
        if better == worse:
            return 1.0
        return better / worse if worse else math.inf

    @property
    def certain(self) -> bool:
        """Whether it is more than the rounds' own scatter: 19 times of 20, the two medians lie apart."""
        old, new = median_interval(self.old.per_round), median_interval(self.new.per_round)
        return old[1] < new[0] or new[1] < old[0]

    def slower(self, threshold: float) -> bool:
        """Whether it got slower by more than `threshold`, a share."""
        return self.speed < 1 - threshold

    def __str__(self) -> str:
        where = f"{self.case}, {self.model}" if self.model else self.case
        return f"{where}: {self.new.ours} / {self.new.peer}"


@click.command("compare")
@click.argument("old", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("new", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--threshold", type=click.FloatRange(0, 1), default=0.05, show_default=True, help="Slower by this share.")
def command(old: Path, new: Path, threshold: float) -> None:
    """Compare two files that --json wrote.

    Our engines' speed by a peer's, within each run. The exit code is 1 if something got slower by more than the
    threshold, and by more than its rounds scatter; or if it was measured before, and failed or is missing now.
    """
    before, after = _by_key(old), _by_key(new)
    found = list(changes(before, after))
    click.echo(_table(found, threshold))
    gone = list(_gone(before, after))
    for sentence in (*gone, *_not_compared(before, after)):
        click.echo(sentence, err=True)
    slow = [change for change in found if change.slower(threshold) and change.certain]
    for change in slow:
        click.echo(f"{change} got slower: {change.speed:.3f} of what it was.", err=True)
    if not found:
        click.echo("Nothing was measured in both.", err=True)
    sys.exit(1 if slow or gone or not found else 0)


def _by_key(path: Path) -> dict[Key, Cell]:
    return {(kept.cell.case, kept.cell.model, kept.how): kept.cell for kept in read(path)}


def changes(old: Mapping[Key, Cell], new: Mapping[Key, Cell]) -> Iterator[Change]:
    """Of all ratios that both runs have, in the new one's order."""
    for key, cell in new.items():
        before = {(ratio.ours, ratio.peer): ratio for ratio in old[key].ratios} if key in old else {}
        for ratio in cell.ratios:
            earlier = before.get((ratio.ours, ratio.peer))
            if earlier is not None:
                yield Change(cell.case, cell.model, earlier, ratio, cell.unit.endswith(RATES))


def _gone(old: Mapping[Key, Cell], new: Mapping[Key, Cell]) -> Iterator[str]:
    """A sentence for each case that is missing now, and for each engine of ours that worked before and failed now."""
    cases = {key[:2] for key in new}
    for case, model, _ in old:
        if (case, model) not in cases:
            yield f"{case}, {model or 'no model'}: it was measured before, and is missing now."
    for key, cell in new.items():
        worked = {entry.name for entry in old[key].entries if entry.ours and entry.spread} if key in old else set()
        for entry in cell.entries:
            if entry.name in worked and entry.error:
                yield f"{cell.case}, {cell.model or 'no model'}: {entry.name} failed, and did not before: {entry.error}"


def _not_compared(old: Mapping[Key, Cell], new: Mapping[Key, Cell]) -> Iterator[str]:
    for which, some, others in (("old", old, new), ("new", new, old)):
        for key in some:
            if key not in others:
                similar = any(other[:2] == key[:2] for other in others)
                how = ", with these settings and engines" if similar else ""
                yield f"{key[0]}, {key[1] or 'no model'}: only the {which} run has it{how}."


def _table(found: Iterable[Change], threshold: float) -> str:
    rows = [
        ("case", "model", "ours / peer", "old", "new", "new by old", "verdict"),
        ("---",) * 3 + ("---:",) * 3 + ("---",),
    ]
    for change in found:
        verdict = "faster" if change.speed > 1 + threshold else "slower" if change.slower(threshold) else ""
        rows.append(
            (
                change.case,
                change.model or "",
                f"{change.new.ours} / {change.new.peer}",
                f"{change.old.spread.median:.3f}",
                f"{change.new.spread.median:.3f}",
                f"{change.speed:.3f}",
                verdict + ("" if change.certain or not verdict else ", within the noise"),
            )
        )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
