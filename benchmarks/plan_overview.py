"""One table of all: every engine of this machine beside what people use, on each kind of work, within ten minutes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from benchmarks.peers import LlamaCppBare, LlamaCppBatched, LlamaCppChat, LlamaCppLlama, TransformersBf16
from benchmarks.startup import Import, Package
from benchmarks.wanted import SHORT_CONTEXT, Plan, Wanted
from inference.measuring import (
    BatchDecode,
    Case,
    Classify,
    Competitor,
    Decode,
    DecodeAtDepth,
    FirstToken,
    Load,
    Native,
    PeakMemory,
    Prefill,
    SecondTurn,
    Start,
)
from inference.protocols import VersionedBackend
from inference.registry import automatic_device, list_backends

__all__ = ["BATCHES", "DEPTHS", "overview"]

BATCHES = (2, 4, 8, 16, 32, 64)
DEPTHS = (512, 2048)
SECONDS = 25.0
"""Of a cell; three rounds are made even where they take longer."""
FEW = 5
"""Rounds, where a round of all competitors takes seconds."""


def engines() -> list[Competitor]:
    """Our own that may be chosen by themselves here."""
    found: list[Competitor] = []
    for backend in list_backends():
        device = automatic_device(backend)
        if device is not None:
            packages = backend.packages if isinstance(backend, VersionedBackend) else ()
            found.append(Native(backend.name, ("native-inference", *packages), device.device))
    return found


def overview(wanted: Wanted) -> Iterator[Plan]:
    ours = engines()
    for model in wanted.models[:1]:
        one = wanted.settings
        short = replace(one, context_length=SHORT_CONTEXT)
        deep = replace(one, context_length=DEPTHS[-1] + 256)
        alone: list[Competitor] = [*ours, LlamaCppBare(), LlamaCppLlama(), TransformersBf16(model)]
        loop, server = LlamaCppBatched(), LlamaCppLlama()
        tokens, prompt = (8, 64) if wanted.quick else (64, 512)
        cases: list[tuple[Case, list[Competitor]]] = [
            (Prefill(model, one, tokens=prompt), alone),
            (FirstToken(model, one, tokens=16), alone),
            (FirstToken(model, one, tokens=prompt), alone),
            (Decode(model, one, tokens=tokens, same_text=False), alone),
            *[(DecodeAtDepth(model, deep, depth=depth), [*ours, LlamaCppBare()]) for depth in DEPTHS[: _few(wanted)]],
            *[
                (BatchDecode(model, short, sequences=many, tokens=max(16, tokens // 2)), [*ours, loop])
                for many in BATCHES[: _few(wanted)]
            ],
            (SecondTurn(model, replace(one, context_length=1024), {}, (200, 600)), [*ours, LlamaCppChat(), server]),
            (Classify(model, replace(short, parallel=32), sentences=40 if wanted.quick else 400), [*ours, server]),
            (Load(model, one), [*ours, server]),
            (Start(model, one), [*ours, server]),
            (PeakMemory(model, one), [*ours, server, TransformersBf16(model)]),
        ]
        for case, competitors in cases:
            yield Plan(case, competitors, repeats=3 if case.name == PeakMemory.name else None, seconds=SECONDS)
    packages = Package("inference", True, "inference", ()), Package("llama_cpp", False, "llama_cpp", ())
    yield Plan(Import(), list(packages), repeats=FEW, seconds=SECONDS)


def _few(wanted: Wanted) -> int | None:
    return 1 if wanted.quick else None
