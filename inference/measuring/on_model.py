"""What the cases on a loaded model share: the model, the settings, something to read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from inference.errors import PromptError
from inference.measuring.case import Bar, Repeat, Sample
from inference.measuring.competitor import Competitor, Loads, Passes, SelfTimed, Session, Settings

__all__ = ["OPENING", "STORY", "OnModel", "digest", "loaded", "rotated", "text_digest"]

STORY = (
    "The river begins under a grey cliff, where three small springs meet in the grass. For the first few miles it is "
    "narrow enough to step across, and the shepherds say that it talks at night. Below the second bridge it turns "
    "west, slows down, and spreads between willows that were planted when the mill was built. Nobody has ground corn "
    "there for sixty years, but the wheel still stands, and in a wet spring it moves a little, as if it remembered. "
    "Children from the village are told not to swim near it. They swim there every summer, and every summer somebody "
    "finds a coin, a spoon, or the handle of a knife in the gravel, and takes it home to ask how old it is. "
)
OPENING = "Once upon a time, in a small village by the sea, there lived an old clockmaker who"


@dataclass(frozen=True, slots=True)
class OnModel:
    """A case on a loaded model."""

    model: Path
    settings: Settings
    bars: Mapping[str, Bar] = field(default_factory=dict)
    isolated: ClassVar[bool] = True

    @property
    def passes(self) -> Passes | None:
        """What a program that times itself is asked for; None if this work is not to be had of one."""
        return None

    def reason_unsuited(self, competitor: Competitor) -> str | None:
        if isinstance(competitor, SelfTimed):
            return None if self.passes else "it does no such work"
        return None if isinstance(competitor, Loads) else "it cannot load a model file"

    def timed_by_itself(self, competitor: SelfTimed) -> Repeat:
        """A repeat starts the program; it loads the model each time, and that is not counted."""
        passes = self.passes
        assert passes is not None
        return lambda _: Sample(competitor.own_rate(self.model, self.settings, passes), work=None)

    def facts(self) -> Mapping[str, Any]:
        facts = asdict(self)
        del facts["model"], facts["bars"]
        return facts


@contextmanager
def loaded(competitor: Competitor, model: Path, settings: Settings) -> Iterator[Session]:
    """The competitor's session; freed at the end."""
    assert isinstance(competitor, Loads)
    session = competitor.load(model, settings)
    try:
        yield session
    finally:
        session.close()


def rotated(text: Sequence[int], number: int, tokens: int) -> list[int]:
    """The first `tokens` of a text that begins elsewhere for each `number`; BOS alone, its first token, stays in
    front."""
    turn = 1 + 13 * number % max(1, len(text) - 1)
    return [*text[:1], *text[turn:], *text[1:turn]][:tokens]


def digest(prompt: Sequence[int]) -> str:
    """What names a prompt in a `Sample.work`.

    Raises:
        PromptError: it is empty.
    """
    if not prompt:
        raise PromptError("The prompt has no tokens: the tokenizer gave none.")
    return f"{len(prompt)} ids {text_digest(repr(list(prompt)))}"


def text_digest(*texts: str) -> str:
    """What names texts in a `Sample.work`."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:8]
