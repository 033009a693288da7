"""What is to be measured, and on which models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.quantized import q4_0
from inference.measuring import Bar, Case, Cell, Competitor, Native, Settings
from inference.stores import demo_model

__all__ = [
    "GEMMA",
    "LLAMA_CPP",
    "REPOSITORY",
    "SHORT_CONTEXT",
    "SMALL_IN_MEMORY",
    "Plan",
    "Wanted",
    "default_models",
    "demo_as_q4_0",
    "is_demo",
]

REPOSITORY = Path(__file__).parent.parent
CACHE = REPOSITORY / ".cache"
GEMMA = CACHE / "gemma-3-270m.Q4_K_M.gguf"
LLAMA_CPP = Native("llama_cpp", ("native-inference", "llama-cpp-python"))
SHORT_CONTEXT = 256
"""Tokens for each of many short sequences."""
SMALL_IN_MEMORY = Bar(at_most=1.12)
"""Bytes in memory by bytes in the file."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the cases are measured on."""

    models: Sequence[Path]
    settings: Settings
    quick: bool = False
    """Less work in each repeat: whether it runs, not how fast."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A cell to measure."""

    case: Case
    competitors: Sequence[Competitor]
    repeats: int | None = None
    """As many rounds, where one says all; None is as many as the command wants."""
    seconds: float | None = None
    """Time for it; None is as much as the command wants."""
    remark: Callable[[Cell], str | None] | None = None
    """What is to be said below the table."""


def default_models() -> list[Path]:
    """The real models that are here: the demo model, and Gemma 3 where the tests have fetched it."""
    return [path for path in (demo_model(), GEMMA) if path is not None and path.exists()]


def is_demo(model: Path) -> bool:
    """Whether it is the demo model as it is."""
    demo = demo_model()
    return demo is not None and model.resolve() == demo.resolve()


def demo_as_q4_0(model: Path) -> Path | None:
    """The demo model as Q4_0, None for any other."""
    return q4_0(model, CACHE) if is_demo(model) else None
