"""Decoding behind a long history."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import ClassVar

from inference.measuring.case import Repeat, Sample
from inference.measuring.competitor import GREEDY, Competitor, Passes, SelfTimed
from inference.measuring.on_model import STORY, OnModel, digest, loaded, rotated

__all__ = ["DecodeAtDepth"]


@dataclass(frozen=True, slots=True)
class DecodeAtDepth(OnModel):
    """Tokens per second of one sequence behind a prompt of `depth` tokens, from its first token to its last."""

    depth: int = 512
    tokens: int = 32
    unit: ClassVar[str] = "tokens/s"

    @property
    def name(self) -> str:
        return f"decode at {self.depth}"

    @property
    def passes(self) -> Passes:
        return Passes(tokens=self.tokens, depth=self.depth)

    @contextmanager
    def prepared(self, competitor: Competitor) -> Iterator[Repeat]:
        if isinstance(competitor, SelfTimed):
            yield self.timed_by_itself(competitor)
            return
        with loaded(competitor, self.model, self.settings) as session:
            text = session.encode(STORY * (self.depth // 64 + 1))

            def repeat(number: int) -> Sample:
                # Another beginning each round: no cached prefix is of use.
                prompt = rotated(text, number, self.depth)
                times = [perf_counter() for _ in session.stream(prompt, self.tokens, GREEDY)]
                rate = (len(times) - 1) / (times[-1] - times[0])
                return Sample(rate, f"prompt {digest(prompt)}, {self.tokens} tokens")

            yield repeat
