"""One table of all: every engine of this machine beside what people use, on each kind of work, each boxed in time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from benchmarks.peers import LlamaBatchedBench, LlamaBench, LlamaCppChat, LlamaCppLlama, MLXLm, TransformersBf16
from benchmarks.share import share_remark
from benchmarks.startup import PACKAGES, Import
from benchmarks.wanted import SHORT_CONTEXT, Plan, Wanted
from inference.choosing import choose
from inference.loading import read_model
from inference.measuring import (
    BatchDecode,
    Case,
    Classify,
    Competitor,
    Decode,
    DecodeAtDepth,
    Load,
    Native,
    PeakMemory,
    Prefill,
    SecondTurn,
    Start,
)
from inference.options import LoadOptions

__all__ = ["BATCHES", "DEPTHS", "overview"]

BATCHES = (2, 4, 8, 16, 32, 64)
DEPTHS = (512, 1536)
SECONDS = 15.0
"""Of a cell; two rounds at least are made even where they take longer."""
FEW = 5
"""Rounds of what hardly scatters."""
SENTENCES = 100


def overview(wanted: Wanted) -> Iterator[Plan]:
    for model in wanted.models[:1]:
        ours = [Native.of(each) for each in choose(read_model(model), LoadOptions())]
        mlx_lm = [MLXLm(each.device) for each in ours if each.backend == "metal" and each.device]
        one = wanted.settings
        short = replace(one, context_length=SHORT_CONTEXT)
        deep = replace(one, context_length=DEPTHS[-1] + 256)
        alone: list[Competitor] = [*ours, LlamaBench(), LlamaCppLlama(), *mlx_lm, TransformersBf16(model)]
        server = LlamaCppLlama()
        tokens, steps, prompt, sentences = (8, 16, 64, 40) if wanted.quick else (64, 32, 512, SENTENCES)
        remark = partial(share_remark, model, one.threads)
        cases: list[tuple[Case, list[Competitor]]] = [
            (Prefill(model, one, tokens=prompt), alone),
            (Decode(model, one, tokens=tokens, same_text=False), alone),
            *[(DecodeAtDepth(model, deep, depth=depth), [*ours, LlamaBench()]) for depth in DEPTHS[: _few(wanted)]],
            *[
                (
                    # Short prompts: the first sequence must not end before the last of 64 begins.
                    BatchDecode(model, short, sequences=many, tokens=steps, shortest=2, longest=6),
                    [*ours, LlamaBatchedBench(), *mlx_lm],
                )
                for many in BATCHES[: _few(wanted)]
            ],
            (SecondTurn(model, replace(one, context_length=1024), {}, (600,)), [*ours, LlamaCppChat(), server]),
            (Classify(model, replace(short, parallel=32), sentences=sentences), [*ours, server]),
            (Load(model, one), [*ours, server]),
            (Start(model, one), [*ours, server]),
            (PeakMemory(model, one), [*ours, server, TransformersBf16(model)]),
        ]
        for case, competitors in cases:
            repeats = 1 if case.name == PeakMemory.name else None  # a peak does not come again
            yield Plan(case, competitors, repeats=repeats, seconds=SECONDS, remark=remark)
    yield Plan(Import(), list(PACKAGES), repeats=FEW, seconds=SECONDS)


def _few(wanted: Wanted) -> int | None:
    return 1 if wanted.quick else None
