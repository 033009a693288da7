"""Measuring what decides which engine runs a model: a few seconds of each work on each engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from inference.measuring.batches import BatchDecode
from inference.measuring.case import Case
from inference.measuring.cases import Decode, Prefill
from inference.measuring.cell import Cell
from inference.measuring.competitor import Settings
from inference.measuring.native import Native
from inference.measuring.rounds import measure
from inference.options import Workload
from inference.speeds import Speed, machine_key, subject_of, versions_of

if TYPE_CHECKING:
    from inference.choosing import Candidate
    from inference.folder import Folder
    from inference.gguf.reader import Header

__all__ = ["Work", "speeds_of", "tune", "works"]

REPEATS = 24
CONTEXT_LENGTH = 1024
"""Tokens of each sequence: the prompt of 512 and what is decoded."""


@dataclass(frozen=True, slots=True)
class Work:
    """A case, and what its figure counts for."""

    workload: Workload
    name: str
    case: Case


def works(model: Path) -> list[Work]:
    """What is measured: short and long prompts, one sequence and eight."""
    settings = Settings.here(context_length=CONTEXT_LENGTH)
    eight = BatchDecode(model, settings, sequences=8, tokens=32)
    return [
        Work("decode", "1 sequence", Decode(model, settings, tokens=32, same_text=False)),
        Work("decode", "8 sequences", eight),
        Work("prefill", "16 tokens", Prefill(model, settings, tokens=16)),
        Work("prefill", "512 tokens", Prefill(model, settings, tokens=512)),
    ]


def tune(
    model: Path, able: Sequence[Candidate], *, seconds: float, tell: Callable[[Work], object] = lambda _: None
) -> list[tuple[Work, Cell]]:
    """Measure the engines that could run the model; `seconds` for each work of all engines. They take turns, each in a
    process of its own. `tell` hears of each work before it begins."""
    engines = [Native.of(each) for each in able]
    cells = []
    for work in works(model):
        tell(work)
        cells.append((work, measure(work.case, engines, repeats=REPEATS, seconds=seconds)))
    return cells


def speeds_of(model: Header | Folder, able: Sequence[Candidate], cells: Iterable[tuple[Work, Cell]]) -> list[Speed]:
    """What was measured, to be kept: the medians, and 0 for what an engine failed at."""
    rates: dict[str, dict[str, dict[str, float]]] = {}
    for work, cell in cells:
        for entry in cell.entries:
            of = rates.setdefault(entry.name, {}).setdefault(work.workload, {})
            of[work.name] = entry.spread.median if entry.spread else 0.0
    here, subject, now = machine_key(), subject_of(model), datetime.now(UTC).isoformat(timespec="seconds")
    return [
        Speed(
            machine=here,
            versions=versions_of(each.backend),
            subject=subject,
            backend=each.backend.name,
            device=each.device.device,
            rates=rates.get(Native.of(each).name, {}),
            date=now,
        )
        for each in able
    ]
