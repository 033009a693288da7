"""The rows of the conformance matrix: one for each backend, architecture and block format."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from conformance.cases import BLOCK_FORMATS
from inference.gguf.architectures import ARCHITECTURES

__all__ = ["BACKENDS", "KEPT", "LEVEL", "LLAMA_CPP", "POSITIONS", "Key", "Row", "keep", "key", "read", "wanted"]

LLAMA_CPP = "llama_cpp"
BACKENDS = (LLAMA_CPP, "torch", "metal", "rocm")
KEPT = Path(__file__).parent / "matrix.jsonl"
POSITIONS = 12
"""Tokens fed, at first."""

LEVEL = 1.25
"""Two engines that round alike, with 8-bit activations and the same weights, lie so far apart on 64 tokens: 0.85 to
1.26 on twelve texts, 1.0 in the mean (IQ4_NL by `torch` and by llama.cpp)."""

Key = tuple[str, str, str]


@dataclass(frozen=True)
class Row:
    """One cell: what was measured, and what it may be at most.

    For `llama_cpp` that is the largest difference of logits on the file's F32 twin, by their range; for the others the
    mean KL divergence from exact arithmetic on the file itself, in nats, where llama.cpp's own rounding is the bound.
    """

    backend: str
    architecture: str
    block_format: str
    measured: float
    bound: float
    positions: int
    """Tokens fed."""
    versions: dict[str, str]
    """Of the packages that compute it."""

    @property
    def share(self) -> float:
        """Of the bound."""
        return self.measured / self.bound

    @property
    def passed(self) -> bool:
        return self.share <= 1

    @property
    def level(self) -> bool:
        """Whether it is at least no farther off than an engine that rounds as llama.cpp does."""
        return self.share <= LEVEL


def key(row: Row) -> Key:
    """What names a row, and sorts it."""
    return row.backend, row.architecture, row.block_format


def wanted() -> list[Key]:
    """Every row that there must be."""
    return [(backend, each, form) for backend in BACKENDS for each in ARCHITECTURES for form in BLOCK_FORMATS]


def read(path: Path = KEPT) -> list[Row]:
    """The rows that are kept."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [Row(**json.loads(line)) for line in lines]


def keep(rows: Iterable[Row], path: Path = KEPT) -> None:
    """Write the rows, sorted, a line each."""
    lines = [json.dumps(asdict(row)) + "\n" for row in sorted(rows, key=key)]
    path.write_text("".join(lines), encoding="utf-8")
