"""Whether a model's process grows with the number of requests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import ClassVar

from inference.measuring.case import Repeat, Sample
from inference.measuring.competitor import GREEDY, Competitor, Loads, Server, Serves
from inference.measuring.on_model import STORY, OnModel, loaded, rotated

__all__ = ["MemoryGrowth", "PeakMemory", "resident_bytes"]

STATUS = Path("/proc/self/status")
CHUNK = 500
"""Requests that are under way at once, at most."""


@dataclass(frozen=True, slots=True)
class MemoryGrowth(OnModel):
    """Megabytes by which the resident set is larger after so many requests of 1 to 4 prompt tokens than after the
    warm-up, a tenth of them. Nine of ten are batches of 1 or 2 tokens each; the rest are streams that are given up:
    half of them after a token, half before. The cache's scope changes with each batch and each stream."""

    requests: int = 10_000
    name: ClassVar[str] = "memory growth"
    unit: ClassVar[str] = "MB"

    def reason_unsuited(self, competitor: Competitor) -> str | None:
        if not STATUS.exists():
            return "this system does not tell the resident set"
        return None if isinstance(competitor, Serves) else "it has one caller at a time"

    @contextmanager
    def prepared(self, competitor: Competitor) -> Iterator[Repeat]:
        assert isinstance(competitor, Serves)
        with closing(competitor.load_server(self.model, self.settings)) as session:
            text = session.encode(STORY)

            def repeat(number: int) -> Sample:
                random = Random(number)
                before = resident_bytes()
                _request(session, text, random, self.requests if number else -(-self.requests // 10))
                after = resident_bytes()
                work = f"{self.requests} requests"
                return Sample((after - before) / 2**20, work, {"resident, MB": after / 2**20})

            yield repeat


@dataclass(frozen=True, slots=True)
class PeakMemory(OnModel):
    """Megabytes of RAM that a process has held at most once it has imported its engine, loaded the model, read a prompt
    of 512 tokens and written 16: pages of the mapped file included. A GPU's memory is not counted."""

    prompt: int = 512
    tokens: int = 16
    name: ClassVar[str] = "peak memory"
    unit: ClassVar[str] = "MB"

    def reason_unsuited(self, competitor: Competitor) -> str | None:
        if not STATUS.exists():
            return "this system does not tell the resident set"
        return None if isinstance(competitor, Loads) else "it cannot load a model file"

    @contextmanager
    def prepared(self, competitor: Competitor) -> Iterator[Repeat]:
        with loaded(competitor, self.model, self.settings) as session:
            text = session.encode(STORY * (self.prompt // 64 + 1))

            def repeat(number: int) -> Sample:
                for _ in session.stream(rotated(text, number, self.prompt), self.tokens, GREEDY):
                    pass
                return Sample(_status("VmHWM") / 2**20, f"a prompt of {self.prompt}, {self.tokens} tokens")

            yield repeat


def resident_bytes() -> int:
    """Memory of this process that is in RAM, pages of mapped files included."""
    return _status("VmRSS")


def _status(name: str) -> int:
    """Bytes that the system tells of this process: "VmRSS" is what is in RAM now, "VmHWM" the most that ever was."""
    for line in STATUS.read_text("ascii", "replace").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{STATUS} has no {name}")


def _request(session: Server, text: Sequence[int], random: Random, requests: int) -> None:
    for begin in range(0, requests, CHUNK):
        count = min(CHUNK, requests - begin)
        given_up = count // 10
        for _ in session.batch([_prompt(text, random) for _ in range(count - given_up)], random.randint(1, 2)):
            pass
        streams = [session.start(_prompt(text, random), 64) for _ in range(given_up)]
        for stream in streams[::2]:
            next(stream)
        for stream in streams:
            stream.close()


def _prompt(text: Sequence[int], random: Random) -> list[int]:
    place = random.randrange(len(text) - 4)
    return list(text[place : place + random.randint(1, 4)])
