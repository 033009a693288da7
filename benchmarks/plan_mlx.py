"""The backend `metal` beside mlx-lm's own loops: on the Apple GPU where there is one, else on MLX's CPU device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from benchmarks.peers import MLXLm
from benchmarks.wanted import SHORT_CONTEXT, SMALL_IN_MEMORY, Plan, Wanted, is_demo
from benchmarks.weight_memory import MLXWeights, WeightMemory
from inference.hardware import machine
from inference.measuring import (
    ABSOLUTE,
    GREEDY,
    SAMPLED,
    Bar,
    BatchDecode,
    Competitor,
    Decode,
    LoadAlone,
    Native,
    Prefill,
)

__all__ = ["mlx", "mlx_memory"]

LEVEL = Bar(at_least=0.98)
EXACT = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K")
"""Block formats that MLX's groups hold as they are."""


def mlx(wanted: Wanted) -> Iterator[Plan]:
    on_gpu = any(gpu.vendor == "apple" for gpu in machine().gpus)
    device = "metal" if on_gpu else "cpu"
    competitors: list[Competitor] = [
        Native("metal", ("native-inference", "mlx", "mlx-lm"), device),
        MLXLm(device),
    ]
    # MLX's CPU device makes ten tokens a second of the demo model.
    tokens, prompt = (64, 512) if on_gpu and not wanted.quick else (16, 48)
    settings = replace(wanted.settings, context_length=SHORT_CONTEXT + prompt)
    bars = {} if wanted.quick else {MLXLm.name: LEVEL}
    for model in wanted.models:
        yield Plan(Prefill(model, settings, bars, tokens=prompt), competitors)
        for sampling in (GREEDY, SAMPLED):
            yield Plan(Decode(model, settings, bars, sampling, tokens), competitors)
        yield Plan(BatchDecode(model, settings, bars, sequences=8, tokens=tokens), competitors)
        yield Plan(LoadAlone(model, settings, {ABSOLUTE: Bar(at_most=0.5)} if is_demo(model) else {}), competitors)


def mlx_memory(wanted: Wanted) -> Iterator[Plan]:
    from inference.gguf.blocks import BLOCK_LAYOUTS

    for name in BLOCK_LAYOUTS:
        bars = {ABSOLUTE: SMALL_IN_MEMORY} if name in EXACT else {}
        yield Plan(WeightMemory(name, bars=bars), [MLXWeights()], repeats=1)
    for model in wanted.models:
        yield Plan(WeightMemory(model=model), [MLXWeights()], repeats=1)
