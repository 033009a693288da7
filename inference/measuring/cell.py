"""What a cell of the table holds: samples, their spread, ratios round by round. It goes to JSON and comes back."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import quantiles
from typing import Any, Self

from inference.measuring.case import ABSOLUTE, Bar, Sample

__all__ = ["Cell", "Entry", "Ratio", "Spread", "median_interval"]


@dataclass(frozen=True, slots=True)
class Spread:
    """The middle of some figures, and the quartiles on both sides of it."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self | None:
        """The spread of `values`, None without any."""
        if not values:
            return None
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        return cls(*quantiles(values, n=4, method="inclusive"))


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Two of the values between which, 19 times of 20, the median of endlessly many such values would lie. Few values
    give their extremes. (Order statistics: the number of values below the median is binomial.)"""
    ordered = sorted(values)
    low = max(0, math.floor(len(ordered) / 2 - 0.98 * math.sqrt(len(ordered))))
    return ordered[low], ordered[-1 - low]


@dataclass(slots=True)
class Entry:
    """One competitor in a cell."""

    name: str
    ours: bool
    versions: Mapping[str, str] = field(default_factory=dict)
    samples: dict[int, float] = field(default_factory=dict)
    """By round, from 1."""
    beside: dict[str, list[float]] = field(default_factory=dict)
    """Further figures by name, one for each round."""
    skipped: str | None = None
    """Why it did not take part."""
    error: str | None = None
    """What went wrong; the samples until then are kept, but count for nothing."""

    @property
    def spread(self) -> Spread | None:
        """Of its samples; None if it failed or did not take part."""
        return None if self.error else Spread.of(list(self.samples.values()))

    def add(self, number: int, sample: Sample) -> None:
        """Take what round `number` gave."""
        self.samples[number] = sample.value
        for name, value in sample.beside.items():
            self.beside.setdefault(name, []).append(value)


@dataclass(frozen=True, slots=True)
class Ratio:
    """Ours by a peer's, taken within each round, so that what slows the machine down for a while cancels."""

    ours: str
    peer: str
    per_round: tuple[float, ...]
    spread: Spread
    bar: Bar | None = None

    @property
    def met(self) -> bool | None:
        """Whether the median clears the bar, None without one."""
        return None if self.bar is None else self.bar.met(self.spread.median)

    @property
    def certain(self) -> bool:
        """Whether more rounds would hardly change that."""
        return self.bar is None or len({self.bar.met(end) for end in median_interval(self.per_round)}) == 1


@dataclass(slots=True)
class Cell:
    """One case, measured."""

    case: str
    model: str | None
    unit: str
    facts: Mapping[str, Any]
    bars: Mapping[str, Bar] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    cut: str | None = None
    """Why fewer rounds were made than asked for."""
    date: str = ""

    @property
    def ratios(self) -> list[Ratio]:
        """Each of our engines against each peer that both finished."""
        pairs = [(ours, peer) for ours in self.entries if ours.ours for peer in self.entries if not peer.ours]
        return [ratio for ours, peer in pairs if (ratio := self._ratio(ours, peer)) is not None]

    @property
    def missed(self) -> list[str]:
        """One sentence for each bar that was not met, or could not be judged since something failed."""
        sentences = [f"{entry.name}: {entry.error}" for entry in self.entries if entry.error]
        sentences += [
            f"{ratio.ours} / {ratio.peer} is {ratio.spread.median:.3f}, not {ratio.bar}{_doubt(ratio)}"
            for ratio in self.ratios
            if ratio.met is False
        ]
        absolute = self.bars.get(ABSOLUTE)
        sentences += [
            f"{entry.name} is {entry.spread.median:.4g} {self.unit}, not {absolute}"
            for entry in self.entries
            if entry.ours and absolute and entry.spread and not absolute.met(entry.spread.median)
        ]
        where = f"{self.case}, {self.model}" if self.model else self.case
        return [f"{where}: {sentence}" for sentence in sentences]

    def to_json(self, surroundings: Mapping[str, Any]) -> str:
        """One line: the cell with its summary, and the `surroundings` it was measured in."""
        entries = [asdict(entry) | {"spread": _dict(entry.spread)} for entry in self.entries]
        ratios = [asdict(ratio) | {"met": ratio.met, "certain": ratio.certain} for ratio in self.ratios]
        cell = asdict(self) | {"entries": entries, "ratios": ratios, "missed": self.missed}
        return json.dumps({**cell, "surroundings": dict(surroundings)}, ensure_ascii=False, default=_plain)

    @classmethod
    def from_json(cls, line: str) -> Self:
        """The cell of a line that `to_json` made. Its summary is computed anew."""
        data = json.loads(line)
        bars = {name: Bar(**bar) for name, bar in data["bars"].items()}
        entries = [_entry(item) for item in data["entries"]]
        kept = {name: data[name] for name in ("case", "model", "unit", "facts", "cut", "date")}
        return cls(**kept, bars=bars, entries=entries)

    def _ratio(self, ours: Entry, peer: Entry) -> Ratio | None:
        if ours.error or peer.error:
            return None
        rounds = [number for number in ours.samples if number in peer.samples]
        values = tuple(ours.samples[number] / peer.samples[number] for number in rounds)
        spread = Spread.of(values)
        return Ratio(ours.name, peer.name, values, spread, self.bars.get(peer.name)) if spread else None


def _doubt(ratio: Ratio) -> str:
    low, high = median_interval(ratio.per_round)
    return "" if ratio.certain else f" (within the noise: {low:.3f} to {high:.3f})"


def _entry(item: dict[str, Any]) -> Entry:
    item.pop("spread")
    samples = {int(number): value for number, value in item.pop("samples").items()}
    return Entry(**item, samples=samples)


def _plain(value: object) -> object:
    """What JSON has no form for: a set becomes a list, anything else its text."""
    return sorted(value) if isinstance(value, set | frozenset) else str(value)


def _dict(spread: Spread | None) -> dict[str, float] | None:
    return asdict(spread) if spread else None
