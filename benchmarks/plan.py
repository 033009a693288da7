"""Which cells are measured, and the bars that they have to clear. Adding a case is adding an entry here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers import LlamaCppBare, LlamaCppLlama, all_peers
from benchmarks.startup import ForeignModules, HeaderRead, Help, Import, Package
from inference.measuring import (
    ABSOLUTE,
    GREEDY,
    SAMPLED,
    Bar,
    Case,
    Competitor,
    Decode,
    Load,
    Native,
    Prefill,
    Settings,
    Start,
)
from inference.stores import demo_model

__all__ = ["CASES", "Plan", "Wanted", "default_models", "plan"]

REPOSITORY = Path(__file__).parent.parent
GEMMA = REPOSITORY / ".cache" / "gemma-3-270m.Q4_K_M.gguf"

LEVEL = Bar(at_least=0.98)
"""Our rate by a peer's on the same engine: threads, queues and text cost next to nothing."""
NO_SLOWER = Bar(at_most=1.05)
"""Our seconds by a peer's."""


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


def default_models() -> list[Path]:
    """The real models that are here: the demo model, and Gemma 3 where the tests have fetched it."""
    return [path for path in (demo_model(), GEMMA) if path is not None and path.exists()]


def plan(names: Sequence[str], wanted: Wanted) -> Iterator[Plan]:
    """The cells of the named cases, in the order of the names."""
    for name in names:
        yield from CASES[name](wanted)


def _decode(wanted: Wanted) -> Iterator[Plan]:
    bars = {LlamaCppBare.name: LEVEL, LlamaCppLlama.name: LEVEL}
    tokens = 16 if wanted.quick else 64
    for model in wanted.models:
        for sampling in (GREEDY, SAMPLED):
            yield Plan(Decode(model, wanted.settings, bars, sampling, tokens), _engines())


def _prefill(wanted: Wanted) -> Iterator[Plan]:
    tokens = 128 if wanted.quick else 512
    for model in wanted.models:
        yield Plan(Prefill(model, wanted.settings, tokens=tokens), _engines())


def _load(wanted: Wanted) -> Iterator[Plan]:
    bars = {LlamaCppLlama.name: NO_SLOWER}
    for model in wanted.models:
        yield Plan(Load(model, wanted.settings, bars), _engines())
        yield Plan(Start(model, wanted.settings), _engines())  # imports included: for comparison, no bar


def _import(wanted: Wanted) -> Iterator[Plan]:
    ours = Package("inference", True, "inference", ("native-inference",))
    peer = Package("llama_cpp", False, "llama_cpp", ("llama-cpp-python",))
    yield Plan(Import(bars={ABSOLUTE: Bar(at_most=40)}), [ours, peer])
    yield Plan(ForeignModules(bars={ABSOLUTE: Bar(at_most=0)}), [ours, peer])
    yield Plan(Help(bars={ABSOLUTE: Bar(at_most=300)}), [ours])
    for model in wanted.models:
        yield Plan(HeaderRead(model, {ABSOLUTE: Bar(at_most=60)}), [ours])


def _engines() -> list[Competitor]:
    return [Native("llama_cpp", ("native-inference", "llama-cpp-python")), *all_peers()]


CASES: Mapping[str, Callable[[Wanted], Iterator[Plan]]] = {
    "decode": _decode,
    "prefill": _prefill,
    "load": _load,
    "import": _import,
}
"""By the name that `--cases` takes."""
