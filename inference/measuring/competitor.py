"""What is measured: an engine behind one small interface, loaded with settings that are equal for all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

from inference.options import KVCacheType

__all__ = [
    "GREEDY",
    "SAMPLED",
    "BatchSession",
    "Batches",
    "ChatSession",
    "Chats",
    "Classifier",
    "Classifies",
    "Competitor",
    "Imports",
    "Loads",
    "Passes",
    "Rate",
    "RunningStream",
    "Sampling",
    "Scripted",
    "SelfTimed",
    "Server",
    "Serves",
    "Session",
    "Settings",
]


@dataclass(frozen=True, slots=True)
class Settings:
    """What every competitor of a cell is loaded with."""

    threads: int
    """CPU threads, for prefill and decoding alike."""
    context_length: int = 2048
    """Tokens that each sequence may hold."""
    parallel: int = 1
    """Sequences at once, for those that can."""
    batch_size: int = 512
    """Tokens in one pass over the weights."""
    kv_cache_type: KVCacheType = "f16"
    flash_attention: bool = True
    gpu_layers: int = -1
    """Layers on the GPU, where there is one; -1 is all."""

    @classmethod
    def here(cls, **changes: Any) -> Self:
        """The settings for this machine: a thread for each physical core."""
        from inference.hardware import physical_cores

        return cls(**{"threads": physical_cores(), **changes})


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn: temperature 0 is greedy, 0 elsewhere switches a filter off."""

    name: str
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 0.0
    seed: int = 1


GREEDY = Sampling("greedy")
SAMPLED = Sampling("sampled", temperature=0.8, top_k=40, top_p=0.95, seed=7)


class Session(Protocol):
    """A loaded model."""

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, with the special tokens that the model wants around it."""

    def stream(self, prompt: Sequence[int], tokens: int, sampling: Sampling) -> Iterator[object]:
        """Continue `prompt` by exactly `tokens` tokens, yielding each as a consumer sees it. Nothing that was computed
        in an earlier call may be used again.

        Raises:
            Exception: fewer tokens were made.
        """

    def text(self, pieces: Sequence[object]) -> str:
        """The text of what `stream` yielded. Called when no clock runs."""

    def close(self) -> None:
        """Free the model."""


class BatchSession(Session, Protocol):
    """A loaded model that takes many prompts at once."""

    def batch(self, prompts: Sequence[Sequence[int]], tokens: int) -> Iterator[int]:
        """Continue all prompts together, greedily, by exactly `tokens` tokens each; for each token, as a consumer sees
        it, the index of its prompt. Nothing that was computed in an earlier call may be used again.

        Raises:
            Exception: a prompt failed.
        """


class RunningStream(Iterator[object], Protocol):
    """Tokens of a sequence that goes on whether they are read or not."""

    def close(self) -> None:
        """End the sequence."""


class Server(BatchSession, Protocol):
    """A loaded model that many callers use at once."""

    def start(self, prompt: Sequence[int], tokens: int) -> RunningStream:
        """As `stream`, greedily, beside what runs already; what it returns may be read on another thread."""


class ChatSession(Protocol):
    """A loaded model that answers."""

    def encode(self, text: str) -> list[int]:
        """Ids of `text`."""

    def chat(self, turns: Sequence[str], tokens: int, scope: str) -> Iterator[object]:
        """The answer to the last of `turns`, the user's and the assistant's by turns: greedily, at most `tokens`
        tokens, a text for each. What earlier calls of the same `scope` computed may be used again, and nothing else."""

    def close(self) -> None:
        """Free the model."""


@dataclass(frozen=True, slots=True)
class Rate:
    """What a classifier reached."""

    per_second: float
    beside: Mapping[str, float] = field(default_factory=dict)
    """Further figures, by name and unit."""


class Classifier(Protocol):
    """A loaded model that classifies."""

    def rate(self, prompts: Sequence[str], labels: Sequence[str]) -> Rate:
        """Classify each prompt, or as many as tell the rate: prompts by the seconds until the last answer is seen.
        Nothing that was computed in an earlier call may be used again.

        Raises:
            Exception: a prompt failed.
        """

    def close(self) -> None:
        """Free the model."""


class Competitor(Protocol):
    """Something that cases measure. It is pickled into a process of its own, so it holds plain data only.

    What it can do is said by further protocols (`Loads`, `Scripted`, `Imports`, those of later cases); a case skips a
    competitor that lacks what the case needs.
    """

    @property
    def name(self) -> str: ...

    @property
    def ours(self) -> bool:
        """Whether it is one of our own engines, which the others are compared with."""

    @property
    def packages(self) -> Sequence[str]:
        """Distributions whose versions belong beside the figures."""

    def reason_unavailable(self) -> str | None:
        """One sentence that says why it cannot run here, or None if it can."""


@runtime_checkable
class Loads(Protocol):
    """A competitor that can load a model file."""

    def load(self, model: Path, settings: Settings) -> Session:
        """Load the file."""


@dataclass(frozen=True, slots=True)
class Passes:
    """What a program that times itself is to compute: `depth` tokens of history, then for each of `sequences` a prompt
    of `prompt` tokens, then `tokens` tokens of each, one at a time."""

    prompt: int = 0
    tokens: int = 0
    depth: int = 0
    sequences: int = 1


@runtime_checkable
class SelfTimed(Protocol):
    """A program that loads a model file, feeds it tokens of its own choice, and tells how fast that was."""

    def own_rate(self, model: Path, settings: Settings, passes: Passes) -> float:
        """Tokens per second: of all sequences' tokens, or of the prompt if `passes` has no tokens. Loading does not
        count, nor does the history.

        Raises:
            Exception: the program failed.
        """


@runtime_checkable
class Batches(Protocol):
    """A competitor that decodes many sequences together."""

    def load_batches(self, model: Path, settings: Settings) -> BatchSession:
        """Load the file for `settings.parallel` sequences at once."""


@runtime_checkable
class Serves(Protocol):
    """A competitor that many callers use at once."""

    def load_server(self, model: Path, settings: Settings) -> Server:
        """Load the file for `settings.parallel` sequences at once."""


@runtime_checkable
class Classifies(Protocol):
    """A competitor that classifies prompts, whatever way it has."""

    def load_classifier(self, model: Path, settings: Settings) -> Classifier:
        """Load the file; those that take several prompts at once take `settings.parallel`."""


@runtime_checkable
class Chats(Protocol):
    """A competitor that renders a chat with the file's own template."""

    def load_chat(self, model: Path, settings: Settings) -> ChatSession:
        """Load the file."""


@runtime_checkable
class Scripted(Protocol):
    """A competitor that a user's script can start from nothing."""

    def first_token_script(self, model: Path, settings: Settings, prompt: str) -> str:
        """A Python program that imports what it needs, loads the model and prints at once, on a line, the `repr`
        of the first greedy token's text after `prompt`."""


@runtime_checkable
class Imports(Protocol):
    """A competitor that is imported."""

    @property
    def module(self) -> str:
        """The module that its users import."""
