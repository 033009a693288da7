"""How long a running stream pauses while a long prompt arrives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median
from threading import Thread
from time import perf_counter
from typing import ClassVar

from inference.measuring.case import Repeat, Sample
from inference.measuring.competitor import Competitor, RunningStream, Server, Serves
from inference.measuring.on_model import OPENING, STORY, OnModel, digest, rotated

__all__ = ["LongestGap"]


@dataclass(frozen=True, slots=True)
class LongestGap(OnModel):
    """Milliseconds: the longest gap between two tokens of a running stream, as its consumer sees them, from when a long
    prompt is handed in until a few tokens after that prompt's own first. Beside: the median gaps before and meanwhile,
    and what the newcomer waits for its first token, which is the price of short gaps."""

    prompt_tokens: int = 4000
    before: int = 32
    """Tokens that the stream gives before the prompt arrives."""
    after: int = 8
    """Tokens that it gives after the newcomer's first."""
    name: ClassVar[str] = "longest gap while a prompt arrives"
    unit: ClassVar[str] = "ms"

    def reason_unsuited(self, competitor: Competitor) -> str | None:
        return None if isinstance(competitor, Serves) else "it has one caller at a time"

    @contextmanager
    def prepared(self, competitor: Competitor) -> Iterator[Repeat]:
        assert isinstance(competitor, Serves)
        length = max(self.settings.context_length, self.prompt_tokens + 256)
        with closing(
            competitor.load_server(self.model, replace(self.settings, parallel=2, context_length=length))
        ) as session:
            opening = session.encode(OPENING)
            text = session.encode(STORY * (self.prompt_tokens // 64 + 1))

            def repeat(number: int) -> Sample:
                with closing(session.start(opening, length - len(opening) - 1)) as running:
                    return self._gap(running, session, rotated(text, number, self.prompt_tokens))

            yield repeat

    def _gap(self, running: RunningStream, session: Server, prompt: list[int]) -> Sample:
        earlier = [perf_counter() for _ in zip(range(self.before), running, strict=False)]
        handed_in = perf_counter()
        newcomer = _Newcomer(session.start(prompt, 1))
        times = [earlier[-1]]
        left = self.after
        for _ in running:
            times.append(perf_counter())
            left -= not newcomer.is_alive()
            if left <= 0:
                break
        newcomer.join()
        if newcomer.error is not None:
            raise newcomer.error
        if left > 0:
            raise RuntimeError(f"the stream ended after {len(times)} tokens, before the prompt had its first")
        gaps = [after - before for before, after in pairwise(times)]
        beside = {
            "median gap before, ms": 1000 * median(after - before for before, after in pairwise(earlier)),
            "median gap meanwhile, ms": 1000 * median(gaps),
            "newcomer's first token, s": newcomer.first_token - handed_in,
        }
        return Sample(1000 * max(gaps), f"prompt {digest(prompt)}", beside)


class _Newcomer(Thread):
    """Waits for the first token of a stream."""

    def __init__(self, stream: RunningStream) -> None:
        super().__init__(daemon=True)
        self._stream = stream
        self.first_token = 0.0
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            for _ in self._stream:
                self.first_token = perf_counter()
        except Exception as error:  # noqa: BLE001 - raised by the thread that measures
            self.error = error
