"""The first cases: decoding, prefill, loading to the first token, starting from nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import ClassVar

from inference.measuring.case import Repeat, Sample
from inference.measuring.competitor import GREEDY, Competitor, Loads, Passes, Sampling, Scripted, SelfTimed
from inference.measuring.on_model import OPENING, STORY, OnModel, digest, loaded, rotated

__all__ = ["Decode", "Load", "LoadAlone", "Prefill", "Start", "first_line"]


@dataclass(frozen=True, slots=True)
class Decode(OnModel):
    """Tokens per second from the first token to the last, as the consumer of the stream sees them."""

    sampling: Sampling = GREEDY
    tokens: int = 64
    same_text: bool = True
    """Whether greedy text must be the same for all. Engines whose arithmetic differs may part at a near-tie."""
    unit: ClassVar[str] = "tokens/s"

    @property
    def name(self) -> str:
        return f"decode {self.sampling.name}"

    @property
    def passes(self) -> Passes | None:
        return Passes(tokens=self.tokens) if self.sampling == GREEDY else None

    @contextmanager
    def prepared(self, competitor: Competitor) -> Iterator[Repeat]:
        if isinstance(competitor, SelfTimed):
            yield self.timed_by_itself(competitor)
            return
        with loaded(competitor, self.model, self.settings) as session:
            prompt = session.encode(OPENING)

            def repeat(_: int) -> Sample:
                pieces, times = [], []
                for piece in session.stream(prompt, self.tokens, self.sampling):
                    times.append(perf_counter())
                    pieces.append(piece)
                rate = (self.tokens - 1) / (times[-1] - times[0])
                work = f"prompt {digest(prompt)}, {self.tokens} tokens"
                if self.same_text and self.sampling.temperature == 0:
                    work += f": {session.text(pieces)}"
                return Sample(rate, work)

            yield repeat


@dataclass(frozen=True, slots=True)
class Prefill(OnModel):
    """Prompt tokens by the seconds until the first token is seen. Beside, the wait itself."""

    tokens: int = 512
    name: ClassVar[str] = "prefill"
    unit: ClassVar[str] = "tokens/s"

    @property
    def passes(self) -> Passes:
        return Passes(prompt=self.tokens)

    @contextmanager
    def prepared(self, competitor: Competitor) -> Iterator[Repeat]:
        if isinstance(competitor, SelfTimed):
            yield self.timed_by_itself(competitor)
            return
        with loaded(competitor, self.model, self.settings) as session:
            text = session.encode(STORY * (self.tokens // 64 + 1))

            def repeat(number: int) -> Sample:
                # Another beginning each round: no cached prefix is of use.
                prompt = rotated(text, number, self.tokens)
                began = perf_counter()
                for _ in session.stream(prompt, 1, GREEDY):
                    seconds = perf_counter() - began
                beside = {"first token, ms": 1000 * seconds}
                return Sample(len(prompt) / seconds, f"prompt {digest(prompt)}", beside)

            yield repeat


@dataclass(frozen=True, slots=True)
class Load(OnModel):
    """Seconds from the path to the first token of a short prompt, in a process that has imported everything (the
    warm-up loads too) and with the file in the page cache."""

    name: ClassVar[str] = "load to first token"
    unit: ClassVar[str] = "s"

    @contextmanager
    def prepared(self, competitor: Competitor) -> Iterator[Repeat]:
        yield lambda _: self._load(competitor)

    def _load(self, competitor: Competitor) -> Sample:
        assert isinstance(competitor, Loads)
        began = perf_counter()
        session = competitor.load(self.model, self.settings)
        try:
            prompt = session.encode(OPENING)
            pieces = list(session.stream(prompt, 1, GREEDY))
            seconds = perf_counter() - began
            return Sample(seconds, f"prompt {digest(prompt)}: {session.text(pieces)}")
        finally:
            session.close()


@dataclass(frozen=True, slots=True)
class LoadAlone(OnModel):
    """Seconds until the model is loaded, under the same conditions, where a token takes longer than loading."""

    name: ClassVar[str] = "load"
    unit: ClassVar[str] = "s"

    @contextmanager
    def prepared(self, competitor: Competitor) -> Iterator[Repeat]:
        yield lambda _: self._load(competitor)

    def _load(self, competitor: Competitor) -> Sample:
        assert isinstance(competitor, Loads)
        began = perf_counter()
        session = competitor.load(self.model, self.settings)
        seconds = perf_counter() - began
        session.close()
        return Sample(seconds)


@dataclass(frozen=True, slots=True)
class Start(OnModel):
    """Seconds from starting Python to the first token of a short prompt: imports and loading, with the file in the page
    cache. What a script's user waits for."""

    name: ClassVar[str] = "start to first token"
    unit: ClassVar[str] = "s"
    isolated: ClassVar[bool] = False  # every repeat starts a process

    def reason_unsuited(self, competitor: Competitor) -> str | None:
        return None if isinstance(competitor, Scripted) else "it has no script that starts it"

    @contextmanager
    def prepared(self, competitor: Competitor) -> Iterator[Repeat]:
        assert isinstance(competitor, Scripted)
        script = competitor.first_token_script(self.model, self.settings, OPENING)

        def repeat(_: int) -> Sample:
            line, seconds = first_line([sys.executable, "-c", script])
            return Sample(seconds, f"first token {line}")

        yield repeat


def first_line(command: list[str]) -> tuple[str, float]:
    """Run a program to its end; the first line that it prints, and the seconds from its start until then.

    Raises:
        RuntimeError: it failed; with the last line of its complaint.
    """
    began = perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = perf_counter() - began
        _, complaint = process.communicate()
    if process.returncode:
        last = complaint.strip().splitlines()[-1:] or ["it says nothing."]
        raise RuntimeError(f"exit code {process.returncode}: {last[0]}")
    return line.rstrip("\n"), seconds
