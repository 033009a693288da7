"""`python -m benchmarks repeats FILE`: how many rounds it takes until two runs would give the same ratio."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from statistics import median

import click

from benchmarks.kept import read
from inference.measuring import Ratio

__all__ = ["agreement", "command", "rounds_needed"]

TRIES = 1000
"""Pairs of runs that are drawn."""
ROUNDS = (3, 5, 7, 9, 11, 15, 21, 31, 41, 61, 81, 121)
OFTEN = 0.95
"""Of the pairs."""
FEWEST = 30
"""Rounds of a run from which others can be drawn: of fewer, the answer hangs on which they happened to be."""


@click.command("repeats")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--within", type=click.FloatRange(0, 1), default=0.03, show_default=True, help="How near two ratios are.")
def command(file: Path, within: float) -> None:
    """How many rounds keep the ratios of two identical runs near each other, 19 times of 20.

    An estimate: runs are drawn from the rounds that --json wrote, 30 at least (--repeats, --seconds). What changes
    from one run to the next, such as the machine's other work, is not in them.
    """
    rows = ["| case | ours / peer | rounds measured | ratio | rounds needed |", "| --- | --- | ---: | ---: | ---: |"]
    for case, ratio in _ratios(file):
        needed = rounds_needed(ratio.per_round, within)
        told = str(needed) if needed else f"more than {ROUNDS[-1]}"
        rows.append(
            f"| {case} | {ratio.ours} / {ratio.peer} | {len(ratio.per_round)} | {ratio.spread.median:.3f} | {told} |"
        )
    if len(rows) == 2:
        raise click.ClickException(f"{file} has no cell of {FEWEST} rounds: measure with more --repeats and --seconds.")
    click.echo("\n".join(rows))


def rounds_needed(per_round: Sequence[float], within: float) -> int | None:
    """The least of `ROUNDS` with which two runs agree 19 times of 20; None if none suffices."""
    return next((rounds for rounds in ROUNDS if agreement(per_round, rounds, within) >= OFTEN), None)


def agreement(per_round: Sequence[float], rounds: int, within: float) -> float:
    """How often the medians of two runs of so many rounds, drawn from these, differ by no more than the share
    `within`."""
    random = Random(0)
    near = 0
    for _ in range(TRIES):
        one, other = (median(random.choices(per_round, k=rounds)) for _ in range(2))
        near += abs(one / other - 1) <= within
    return near / TRIES


def _ratios(file: Path) -> Iterator[tuple[str, Ratio]]:
    for kept in read(file):
        for ratio in kept.cell.ratios:
            if len(ratio.per_round) >= FEWEST:
                yield kept.cell.case, ratio
