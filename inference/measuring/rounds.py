"""The harness: competitors take turns, round after round, until the rounds are done or the time is up."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib import metadata

from inference.measuring.case import Case, Sample
from inference.measuring.cell import Cell, Entry
from inference.measuring.competitor import Competitor
from inference.measuring.seat import CompetitorError, Seat, take_seat

__all__ = ["FEWEST_ROUNDS", "measure"]

FEWEST_ROUNDS = 3
"""Rounds that are made though the time is up..."""
OVERTIME = 4
"""...unless it is up this many times over."""
PAUSE = 0.02
"""Seconds before each repeat, in which the last competitor's threads stop spinning and go to sleep."""

TakeSeat = Callable[[Case, Competitor], Seat]


def measure(
    case: Case,
    competitors: Sequence[Competitor],
    *,
    repeats: int = 10,
    seconds: float = 60.0,
    seat: TakeSeat = take_seat,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> Cell:
    """Measure one case: prepare all competitors, warm each up once, then `repeats` rounds in which each does the work
    once, beginning with another one each round. A round is not begun once `seconds` would be passed, after the third.

    A competitor that is unavailable, fails, or does other work than the first of our own is reported as such in its
    entry; the others go on.
    """
    facts = case.facts()
    model = case.model.name if case.model else None
    cell = Cell(
        case.name, model, case.unit, facts, dict(case.bars), date=datetime.now(UTC).isoformat(timespec="seconds")
    )
    began = clock()
    with ExitStack() as stack:
        seats: dict[str, Seat] = {}
        for competitor in competitors:
            entry = _entry(case, competitor)
            cell.entries.append(entry)
            if entry.skipped:
                continue
            try:
                seats[entry.name] = seat(case, competitor)
                stack.callback(seats[entry.name].close)
            except CompetitorError as error:
                entry.error = str(error)
        for number in range(repeats + 1):
            started = clock()
            _round(cell, seats, number, sleep)
            now = clock()
            if not seats:
                break
            if number < repeats and _is_spent(number, now - began, now - started, seconds):
                cell.cut = f"{number} of {repeats} rounds: the cell's {seconds:g} s were spent"
                break
    return cell


def _entry(case: Case, competitor: Competitor) -> Entry:
    entry = Entry(competitor.name, competitor.ours)
    entry.skipped = case.reason_unsuited(competitor) or competitor.reason_unavailable()
    if not entry.skipped:
        entry.versions = {package: _version(package) for package in competitor.packages}
    return entry


def _round(cell: Cell, seats: dict[str, Seat], number: int, sleep: Callable[[float], object]) -> None:
    """Each competitor once. Those that fail leave `seats`."""
    running = [entry for entry in cell.entries if entry.name in seats]
    first = number % max(len(running), 1)
    samples: dict[str, Sample] = {}
    for entry in running[first:] + running[:first]:
        sleep(PAUSE)
        try:
            samples[entry.name] = seats[entry.name].repeat(number)
        except CompetitorError as error:
            entry.error = f"in round {number}: {error}" if number else f"in the warm-up: {error}"
            del seats[entry.name]
    works = [samples[entry.name].work for entry in running if entry.name in samples]
    reference = next((work for work in works if work is not None), None)
    for entry in running:
        sample = samples.get(entry.name)
        if sample is None:
            continue
        if sample.work is not None and reference is not None and sample.work != reference:
            entry.error = f"in round {number} it did other work: {_difference(sample.work, reference)}"
            del seats[entry.name]
        elif number:
            entry.add(number, sample)


def _is_spent(done: int, elapsed: float, last_round: float, seconds: float) -> bool:
    """Whether a round more would take too long."""
    return (done >= FEWEST_ROUNDS and elapsed + last_round > seconds) or elapsed > OVERTIME * seconds


def _difference(one: str, other: str) -> str:
    """Where two texts part."""
    same = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    begin = max(0, same - 20)
    return f"{one[begin : same + 20]!r} instead of {other[begin : same + 20]!r}"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed as a package"
