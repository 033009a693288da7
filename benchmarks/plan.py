"""Which cells are measured, and the bars that they have to clear. Adding a case is adding an entry here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.blocks import BlockDecode, GgufPackage, NumpyBlocks
from benchmarks.bound import ClassifyBound, gpu_remark
from benchmarks.overhead import Overhead
from benchmarks.peers import LlamaCppBare, LlamaCppBatched, LlamaCppChat, LlamaCppLlama, OneByOne, all_peers
from benchmarks.plan_mlx import mlx, mlx_memory
from benchmarks.plan_overview import overview
from benchmarks.plan_torch import torch, torch_memory
from benchmarks.startup import PACKAGES, Checks, Choosing, FindingBackends, ForeignModules, HeaderRead, Help, Import
from benchmarks.tokenizer import Encode, GGUFVocabulary, LlamaCppVocabulary, TokenizerBuild
from benchmarks.wanted import LLAMA_CPP, SHORT_CONTEXT, Plan, Wanted, demo_as_q4_0
from inference.measuring import (
    ABSOLUTE,
    GREEDY,
    SAMPLED,
    Bar,
    BatchDecode,
    Classify,
    Competitor,
    Decode,
    Load,
    LongestGap,
    MemoryGrowth,
    Prefill,
    SecondTurn,
    Start,
)

__all__ = ["CASES", "plan"]

LEVEL = Bar(at_least=0.98)
"""Our rate by a peer's on the same engine: threads, queues and text cost next to nothing."""
NO_SLOWER = Bar(at_most=1.05)
"""Our seconds by a peer's."""
NEW_TOKENS_ONLY = Bar(at_most=1.15)
"""Our milliseconds to a turn's first token by those of a bare `llama_decode` of its new tokens behind the same history.
On a CPU both grow with the history, by attention alone."""


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
    ours, peer = PACKAGES
    yield Plan(Import(bars={ABSOLUTE: Bar(at_most=40)}), [ours, peer])
    yield Plan(ForeignModules(bars={ABSOLUTE: Bar(at_most=0)}), [ours, peer])
    yield Plan(Help(bars={ABSOLUTE: Bar(at_most=300)}), [ours])
    yield Plan(FindingBackends(), [ours])
    yield Plan(Choosing(bars={ABSOLUTE: Bar(at_most=10)}), [ours])
    for model in wanted.models:
        yield Plan(HeaderRead(model, {ABSOLUTE: Bar(at_most=60)}), [ours])
        yield Plan(Choosing(model, {ABSOLUTE: Bar(at_most=80)}), [ours])
        yield Plan(Checks(model, {ABSOLUTE: Bar(at_most=20 if model == wanted.models[0] else 100)}), [ours])


def _batch(wanted: Wanted) -> Iterator[Plan]:
    settings = replace(wanted.settings, context_length=SHORT_CONTEXT)
    loop = LlamaCppBatched()
    competitors: list[Competitor] = [
        LLAMA_CPP,
        loop,
        LlamaCppBatched(samples=True),
        OneByOne(LLAMA_CPP),
        LlamaCppLlama(),
    ]
    sizes = {"sequences": 4, "tokens": 16} if wanted.quick else {}
    for model, times in _batched_models(wanted):
        bars = {loop.name: Bar(at_least=0.95)}
        if times and not wanted.quick:
            bars[OneByOne(LLAMA_CPP).name] = Bar(at_least=times)
        yield Plan(BatchDecode(model, settings, bars, **sizes), competitors)


def _batched_models(wanted: Wanted) -> Iterator[tuple[Path, float | None]]:
    """The models, and how many times faster than one by one they must decode in a batch: that depends on the block
    format, so the demo model is measured as Q4_0 too."""
    for model in wanted.models:
        made = demo_as_q4_0(model)
        yield model, 1.8 if made else None
        if made:
            yield made, 3.2


def _overhead(wanted: Wanted) -> Iterator[Plan]:
    settings = replace(wanted.settings, context_length=SHORT_CONTEXT)
    tokens = 16 if wanted.quick else 64
    for model in wanted.models[:1]:
        one = Overhead(model, settings, {ABSOLUTE: Bar(at_most=150)}, 1, tokens)
        yield Plan(one, _engines())
        many = Overhead(model, settings, {ABSOLUTE: Bar(at_most=3)}, 4 if wanted.quick else 32, tokens)
        yield Plan(many, [LLAMA_CPP, LlamaCppBatched(samples=True)])


def _classify(wanted: Wanted) -> Iterator[Plan]:
    settings = replace(wanted.settings, context_length=SHORT_CONTEXT, parallel=32)
    limit = ClassifyBound(LLAMA_CPP, 64 if wanted.quick else 512)
    for model in wanted.models:
        case = Classify(model, settings, {limit.name: Bar(at_least=0.85)}, 40 if wanted.quick else 2000)
        yield Plan(case, [LLAMA_CPP, limit, LlamaCppLlama()], remark=partial(gpu_remark, model))


def _turn(wanted: Wanted) -> Iterator[Plan]:
    histories = (50, 100, 200) if wanted.quick else (200, 800, 2000)
    settings = replace(wanted.settings, context_length=histories[-1] + 256)
    for model in wanted.models[:1]:
        case = SecondTurn(model, settings, {LlamaCppChat.name: NEW_TOKENS_ONLY}, histories)
        yield Plan(case, [LLAMA_CPP, LlamaCppChat(), LlamaCppLlama()])


def _gap(wanted: Wanted) -> Iterator[Plan]:
    tokens = 400 if wanted.quick else 4000
    for model in wanted.models[:1]:
        yield Plan(LongestGap(model, wanted.settings, {ABSOLUTE: Bar(at_most=300)}, tokens), [LLAMA_CPP])


def _memory(wanted: Wanted) -> Iterator[Plan]:
    settings = replace(wanted.settings, context_length=SHORT_CONTEXT, parallel=32)
    requests = 200 if wanted.quick else 10_000
    for model in wanted.models[:1]:
        # The engine is the same with both files, and ten thousand requests take half the time with Q4_0.
        case = MemoryGrowth(demo_as_q4_0(model) or model, settings, {ABSOLUTE: Bar(at_most=4)}, requests)
        yield Plan(case, [LLAMA_CPP], repeats=1)


def _blocks(wanted: Wanted) -> Iterator[Plan]:
    from inference.gguf.blocks import BLOCK_LAYOUTS

    rows = 256 if wanted.quick else 2048
    for name in BLOCK_LAYOUTS:
        yield Plan(BlockDecode(name, {ABSOLUTE: Bar(at_least=0.5)}, rows), [NumpyBlocks(), GgufPackage()])


def _tokenizer(wanted: Wanted) -> Iterator[Plan]:
    competitors = [GGUFVocabulary(), LlamaCppVocabulary()]
    for model in wanted.models:
        yield Plan(TokenizerBuild(model, {ABSOLUTE: Bar(at_most=3)}), competitors)
        for text in ("English", "code", "random words"):
            for short in (False, True):
                yield Plan(Encode(model, text, short, {ABSOLUTE: Bar(at_least=1)}), competitors)


def _engines() -> list[Competitor]:
    return [LLAMA_CPP, *all_peers()]


CASES: Mapping[str, Callable[[Wanted], Iterator[Plan]]] = {
    "overview": overview,
    "decode": _decode,
    "prefill": _prefill,
    "load": _load,
    "import": _import,
    "batch": _batch,
    "overhead": _overhead,
    "classify": _classify,
    "turn": _turn,
    "gap": _gap,
    "memory": _memory,
    "blocks": _blocks,
    "tokenizer": _tokenizer,
    "torch": torch,
    "torch-memory": torch_memory,
    "mlx": mlx,
    "mlx-memory": mlx_memory,
}
"""By the name that `--cases` takes."""
