"""Which cells are measured, and the bars that they have to clear. Adding a case is adding an entry here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from benchmarks.blocks import BlockDecode, GgufPackage, NumpyBlocks
from benchmarks.bound import ClassifyBound, gpu_remark
from benchmarks.overhead import Overhead
from benchmarks.peers import (
    LlamaCppBare,
    LlamaCppBatched,
    LlamaCppChat,
    LlamaCppLlama,
    OneByOne,
    OtherEngine,
    TransformersBf16,
    all_peers,
)
from benchmarks.quantized import q4_0
from benchmarks.share import decode_remark, prefill_remark
from benchmarks.startup import ForeignModules, HeaderRead, Help, Import, Package
from benchmarks.tokenizer import Encode, GGUFVocabulary, LlamaCppVocabulary, TokenizerBuild
from benchmarks.weight_memory import TorchWeights, WeightMemory
from inference.measuring import (
    ABSOLUTE,
    GREEDY,
    SAMPLED,
    Bar,
    BatchDecode,
    Case,
    Cell,
    Classify,
    Competitor,
    Decode,
    Load,
    LongestGap,
    MemoryGrowth,
    Native,
    Prefill,
    SecondTurn,
    Settings,
    Start,
)
from inference.stores import demo_model

__all__ = ["CASES", "Plan", "Wanted", "default_models", "plan"]

REPOSITORY = Path(__file__).parent.parent
CACHE = REPOSITORY / ".cache"
GEMMA = CACHE / "gemma-3-270m.Q4_K_M.gguf"
NATIVE = Native("llama_cpp", ("native-inference", "llama-cpp-python"))
TORCH = Native("torch", ("native-inference", "torch"))
BESIDE_TORCH = OtherEngine(NATIVE.backend, NATIVE.packages)
SHORT_CONTEXT = 256
"""Tokens for each of many short sequences."""

LEVEL = Bar(at_least=0.98)
"""Our rate by a peer's on the same engine: threads, queues and text cost next to nothing."""
NO_SLOWER = Bar(at_most=1.05)
"""Our seconds by a peer's."""
NEW_TOKENS_ONLY = Bar(at_most=1.15)
"""Our milliseconds to a turn's first token by those of a bare `llama_decode` of its new tokens behind the same history.
On a CPU both grow with the history, by attention alone."""

TORCH_BARS: Mapping[str, Mapping[str, Bar]] = {
    "prefill": {BESIDE_TORCH.name: Bar(at_least=3), TransformersBf16.name: Bar(at_least=1)},
    "decode greedy": {BESIDE_TORCH.name: Bar(at_least=0.8), TransformersBf16.name: Bar(at_least=3)},
    "decode 8 together": {BESIDE_TORCH.name: Bar(at_least=2)},
    "decode 32 together": {BESIDE_TORCH.name: Bar(at_least=2)},
    "classify": {BESIDE_TORCH.name: Bar(at_least=3)},
    "load to first token": {ABSOLUTE: Bar(at_most=1)},
}
"""For the demo model as it is, by the case's name. Seconds to the first token hold those to load."""
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
    remark: Callable[[Cell], str | None] | None = None
    """What is to be said below the table."""


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


def _batch(wanted: Wanted) -> Iterator[Plan]:
    settings = replace(wanted.settings, context_length=SHORT_CONTEXT)
    loop = LlamaCppBatched()
    competitors: list[Competitor] = [NATIVE, loop, LlamaCppBatched(samples=True), OneByOne(NATIVE), LlamaCppLlama()]
    sizes = {"sequences": 4, "tokens": 16} if wanted.quick else {}
    for model, times in _batched_models(wanted):
        bars = {loop.name: Bar(at_least=0.95)}
        if times and not wanted.quick:
            bars[OneByOne(NATIVE).name] = Bar(at_least=times)
        yield Plan(BatchDecode(model, settings, bars, **sizes), competitors)


def _batched_models(wanted: Wanted) -> Iterator[tuple[Path, float | None]]:
    """The models, and how many times faster than one by one they must decode in a batch: that depends on the block
    format, so the demo model is measured as Q4_0 too."""
    for model in wanted.models:
        made = _demo_as_q4_0(model)
        yield model, 1.8 if made else None
        if made:
            yield made, 3.2


def _demo_as_q4_0(model: Path) -> Path | None:
    """The demo model as Q4_0, None for any other."""
    demo = demo_model()
    return q4_0(model, CACHE) if demo is not None and model.resolve() == demo.resolve() else None


def _overhead(wanted: Wanted) -> Iterator[Plan]:
    settings = replace(wanted.settings, context_length=SHORT_CONTEXT)
    tokens = 16 if wanted.quick else 64
    for model in wanted.models[:1]:
        one = Overhead(model, settings, {ABSOLUTE: Bar(at_most=150)}, 1, tokens)
        yield Plan(one, _engines())
        many = Overhead(model, settings, {ABSOLUTE: Bar(at_most=3)}, 4 if wanted.quick else 32, tokens)
        yield Plan(many, [NATIVE, LlamaCppBatched(samples=True)])


def _classify(wanted: Wanted) -> Iterator[Plan]:
    settings = replace(wanted.settings, context_length=SHORT_CONTEXT, parallel=32)
    limit = ClassifyBound(NATIVE, 64 if wanted.quick else 512)
    for model in wanted.models:
        case = Classify(model, settings, {limit.name: Bar(at_least=0.85)}, 40 if wanted.quick else 2000)
        yield Plan(case, [NATIVE, limit, LlamaCppLlama()], remark=partial(gpu_remark, model))


def _turn(wanted: Wanted) -> Iterator[Plan]:
    histories = (50, 100, 200) if wanted.quick else (200, 800, 2000)
    settings = replace(wanted.settings, context_length=histories[-1] + 256)
    for model in wanted.models[:1]:
        case = SecondTurn(model, settings, {LlamaCppChat.name: NEW_TOKENS_ONLY}, histories)
        yield Plan(case, [NATIVE, LlamaCppChat(), LlamaCppLlama()])


def _gap(wanted: Wanted) -> Iterator[Plan]:
    tokens = 400 if wanted.quick else 4000
    for model in wanted.models[:1]:
        yield Plan(LongestGap(model, wanted.settings, {ABSOLUTE: Bar(at_most=300)}, tokens), [NATIVE])


def _memory(wanted: Wanted) -> Iterator[Plan]:
    settings = replace(wanted.settings, context_length=SHORT_CONTEXT, parallel=32)
    requests = 200 if wanted.quick else 10_000
    for model in wanted.models[:1]:
        # The engine is the same with both files, and ten thousand requests take half the time with Q4_0.
        case = MemoryGrowth(_demo_as_q4_0(model) or model, settings, {ABSOLUTE: Bar(at_most=4)}, requests)
        yield Plan(case, [NATIVE], repeats=1)


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


def _torch(wanted: Wanted) -> Iterator[Plan]:
    for model in wanted.models:
        yield from _torch_on(model, wanted, {} if wanted.quick else _torch_bars(model))
        if made := _demo_as_q4_0(model):
            yield from _torch_on(made, wanted, {})


def _torch_on(model: Path, wanted: Wanted, bars: Mapping[str, Mapping[str, Bar]]) -> Iterator[Plan]:
    quick, one = wanted.quick, wanted.settings
    short = replace(one, context_length=SHORT_CONTEXT)
    competitors: list[Competitor] = [TORCH, BESIDE_TORCH, TransformersBf16(model)]
    decode = Decode(model, one, tokens=16 if quick else 64, same_text=False)  # another arithmetic: near-ties part
    remarks: Mapping[str, Callable[[Cell], str | None]] = {
        Prefill.name: partial(prefill_remark, model, one.threads),
        decode.name: partial(decode_remark, model, one.threads, (TORCH.name, BESIDE_TORCH.name)),
    }
    cases: list[Prefill | Decode | BatchDecode | Classify | Load] = [
        Prefill(model, one, tokens=128 if quick else 512),
        decode,
        *[BatchDecode(model, short, sequences=many, tokens=decode.tokens) for many in ((2, 4) if quick else (8, 32))],
        Classify(model, replace(short, parallel=32), sentences=40 if quick else 2000),
        Load(model, one),
    ]
    for case in cases:
        yield Plan(replace(case, bars=bars.get(case.name, {})), competitors, remark=remarks.get(case.name))


def _torch_bars(model: Path) -> Mapping[str, Mapping[str, Bar]]:
    """The bars of a model, by the case's name."""
    demo = demo_model()
    if demo is not None and model.resolve() == demo.resolve():
        return TORCH_BARS
    return {Load.name: {ABSOLUTE: Bar(at_most=3)}} if model.resolve() == GEMMA.resolve() else {}


def _torch_memory(wanted: Wanted) -> Iterator[Plan]:
    from inference.gguf.blocks import BLOCK_LAYOUTS

    for name in BLOCK_LAYOUTS:
        bars = {ABSOLUTE: SMALL_IN_MEMORY} if name in ("Q4_0", "Q4_1", "Q4_K", "Q8_0") else {}
        yield Plan(WeightMemory(name, bars=bars), [TorchWeights()], repeats=1)
    for model in wanted.models:
        yield Plan(WeightMemory(model=model), [TorchWeights()], repeats=1)


def _engines() -> list[Competitor]:
    return [NATIVE, *all_peers()]


CASES: Mapping[str, Callable[[Wanted], Iterator[Plan]]] = {
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
    "torch": _torch,
    "torch-memory": _torch_memory,
}
"""By the name that `--cases` takes."""
