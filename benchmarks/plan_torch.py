"""The backend `torch` beside llama.cpp and `transformers`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.peers import OtherEngine, TransformersBf16
from benchmarks.share import share_remark
from benchmarks.wanted import GEMMA, LLAMA_CPP, SHORT_CONTEXT, SMALL_IN_MEMORY, Plan, Wanted, demo_as_q4_0, is_demo
from benchmarks.weight_memory import TorchWeights, WeightMemory
from inference.measuring import ABSOLUTE, Bar, BatchDecode, Classify, Competitor, Decode, Load, Native, Prefill

__all__ = ["torch", "torch_memory"]

TORCH = Native("torch", ("native-inference", "torch"))
BESIDE_TORCH = OtherEngine(LLAMA_CPP.backend, LLAMA_CPP.packages)

TORCH_BARS: Mapping[str, Mapping[str, Bar]] = {
    "prefill": {BESIDE_TORCH.name: Bar(at_least=3), TransformersBf16.name: Bar(at_least=1)},
    "decode greedy": {BESIDE_TORCH.name: Bar(at_least=0.8), TransformersBf16.name: Bar(at_least=3)},
    "decode 8 together": {BESIDE_TORCH.name: Bar(at_least=2)},
    "decode 32 together": {BESIDE_TORCH.name: Bar(at_least=2)},
    "classify": {BESIDE_TORCH.name: Bar(at_least=3)},
    "load to first token": {ABSOLUTE: Bar(at_most=1)},
}
"""For the demo model as it is, by the case's name. Seconds to the first token hold those to load."""


def torch(wanted: Wanted) -> Iterator[Plan]:
    for model in wanted.models:
        yield from _on(model, wanted, {} if wanted.quick else _bars(model))
        if made := demo_as_q4_0(model):
            yield from _on(made, wanted, {})


def _on(model: Path, wanted: Wanted, bars: Mapping[str, Mapping[str, Bar]]) -> Iterator[Plan]:
    quick, one = wanted.quick, wanted.settings
    short = replace(one, context_length=SHORT_CONTEXT)
    competitors: list[Competitor] = [TORCH, BESIDE_TORCH, TransformersBf16(model)]
    decode = Decode(model, one, tokens=16 if quick else 64, same_text=False)  # another arithmetic: near-ties part
    cases: list[Prefill | Decode | BatchDecode | Classify | Load] = [
        Prefill(model, one, tokens=128 if quick else 512),
        decode,
        *[BatchDecode(model, short, sequences=many, tokens=decode.tokens) for many in ((2, 4) if quick else (8, 32))],
        Classify(model, replace(short, parallel=32), sentences=40 if quick else 2000),
        Load(model, one),
    ]
    for case in cases:
        remark = partial(share_remark, model, one.threads)
        yield Plan(replace(case, bars=bars.get(case.name, {})), competitors, remark=remark)


def _bars(model: Path) -> Mapping[str, Mapping[str, Bar]]:
    """The bars of a model, by the case's name."""
    if is_demo(model):
        return TORCH_BARS
    return {Load.name: {ABSOLUTE: Bar(at_most=3)}} if model.resolve() == GEMMA.resolve() else {}


def torch_memory(wanted: Wanted) -> Iterator[Plan]:
    from inference.gguf.blocks import BLOCK_LAYOUTS

    for name in BLOCK_LAYOUTS:
        bars = {ABSOLUTE: SMALL_IN_MEMORY} if name in ("Q4_0", "Q4_1", "Q4_K", "Q8_0") else {}
        yield Plan(WeightMemory(name, bars=bars), [TorchWeights()], repeats=1)
    for model in wanted.models:
        yield Plan(WeightMemory(model=model), [TorchWeights()], repeats=1)
