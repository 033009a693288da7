"""Decoding behind a long history, and the wait for the first token of a prompt."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import ClassVar

from inference.measuring.case import Repeat, Sample
from inference.measuring.competitor import GREEDY, Competitor, Session
from inference.measuring.on_model import STORY, OnModel, digest, loaded, rotated

__all__ = ["DecodeAtDepth", "FirstToken"]


def _prompt(session: Session, number: int, tokens: int) -> list[int]:
    """Another beginning each round: no cached prefix is of use."""
    return rotated(session.encode(STORY * (tokens // 64 + 1)), number, tokens)


@dataclass(frozen=True, slots=True)
class DecodeAtDepth(OnModel):
    """Tokens per second of one sequence behind a prompt of `depth` tokens, from its first token to its last."""

    depth: int = 512
    tokens: int = 32
    unit: ClassVar[str] = "tokens/s"

    @property
    def name(self) -> str:
        return f"decode at {self.depth}"

    @contextmanager
    def prepared(self, competitor: Competitor) -> Iterator[Repeat]:
        with loaded(competitor, self.model, self.settings) as session:

            def repeat(number: int) -> Sample:
                prompt = _prompt(session, number, self.depth)
                times = [perf_counter() for _ in session.stream(prompt, self.tokens, GREEDY)]
                rate = (len(times) - 1) / (times[-1] - times[0])
                return Sample(rate, f"prompt {digest(prompt)}, {self.tokens} tokens")

            yield repeat


@dataclass(frozen=True, slots=True)
class FirstToken(OnModel):
    """Milliseconds from the call until the first token of a prompt is seen."""

    tokens: int = 128
    unit: ClassVar[str] = "ms"

    @property
    def name(self) -> str:
        return f"first token of {self.tokens}"

    @contextmanager
    def prepared(self, competitor: Competitor) -> Iterator[Repeat]:
        with loaded(competitor, self.model, self.settings) as session:

            def repeat(number: int) -> Sample:
                prompt = _prompt(session, number, self.tokens)
                began = perf_counter()
                for _ in session.stream(prompt, 1, GREEDY):
                    seconds = perf_counter() - began
                return Sample(1000 * seconds, f"prompt {digest(prompt)}")

            yield repeat
