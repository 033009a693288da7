"""What bounds classification: the engine's own prefill rate over the new tokens, and the output head.

A peer that classifies nothing: in each round it measures our engine's prefill, and says how many sentences a second
that would make if nothing else cost anything. Our rate by its rate is the share of the bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from time import perf_counter
from typing import ClassVar

from benchmarks.head import head_seconds
from inference.gguf.reader import read_header
from inference.measuring import GREEDY, STORY, Cell, Native, Rate, Session, Settings, rotated

__all__ = ["ClassifyBound", "bound", "gpu_remark", "new_tokens"]

NEW_TOKENS = "new tokens a sentence"
GPU, GPU_FLOPS, GPU_SHARE = "an AMD Radeon RX 7900 XTX", 122.8e12, 0.3
"""The data sheet's dense FP16 rate, and the share of it that we assume prefill to reach."""
WANTED_ON_GPU = 5000
"""Sentences per second that the suite's consumer wants of one GPU."""


@dataclass(frozen=True, slots=True)
class ClassifyBound:
    """The bound for one of our engines."""

    engine: Native
    prompt_tokens: int = 512
    """Of the prompt whose prefill tells the rate."""
    ours: ClassVar[bool] = False

    @property
    def name(self) -> str:
        return f"bound of {self.engine.name}"

    @property
    def packages(self) -> Sequence[str]:
        return self.engine.packages

    def reason_unavailable(self) -> str | None:
        return self.engine.reason_unavailable()

    def load_classifier(self, model: Path, settings: Settings) -> BoundSession:
        # The head first, while this process has no threads of an engine.
        head = head_seconds(model, settings.threads)
        alone = replace(settings, parallel=1, context_length=self.prompt_tokens + 64)
        return BoundSession(self.engine.load(model, alone), head, self.prompt_tokens)


class BoundSession:
    """Measures the prefill of one prompt at a time."""

    def __init__(self, session: Session, head: float, prompt_tokens: int) -> None:
        self._session = session
        self._head = head
        self._prompt_tokens = prompt_tokens
        self._text = session.encode(STORY * (prompt_tokens // 64 + 1))
        self._calls = 0

    def rate(self, prompts: Sequence[str], labels: Sequence[str]) -> Rate:  # noqa: ARG002 - labels cost nothing here
        each = new_tokens([self._session.encode(prompt) for prompt in prompts])
        self._calls += 1
        prompt = rotated(self._text, self._calls, self._prompt_tokens)
        began = perf_counter()
        for _ in self._session.stream(prompt, 1, GREEDY):
            seconds = perf_counter() - began
        prefill = len(prompt) / (seconds - self._head)  # the prompt's own row of the head is no prefill
        beside = {NEW_TOKENS: each, "prefill, tokens/s": prefill, "a row of the head, ms": 1000 * self._head}
        return Rate(bound(each, prefill, self._head), beside)

    def close(self) -> None:
        self._session.close()


def bound(new_tokens: float, prefill: float, head: float) -> float:
    """Sentences per second, if a sentence costs its new tokens at `prefill` tokens per second and `head` seconds for
    a row of the output head."""
    return 1 / (new_tokens / prefill + head)


def new_tokens(prompts: Sequence[list[int]]) -> float:
    """Tokens of a prompt, on average, behind the beginning that all of them share."""
    first, last = min(prompts), max(prompts)  # what these two share, all between them in the order share too
    shared = next((place for place, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return fmean(len(prompt) - shared for prompt in prompts)


def gpu_remark(model: Path, cell: Cell) -> str | None:
    """The bound on one GPU, by arithmetic from what is known of the GPU and of the file; None if the sentences' tokens
    were not counted."""
    counted = [entry.beside[NEW_TOKENS] for entry in cell.entries if NEW_TOKENS in entry.beside]
    if not counted:
        return None
    each = fmean(counted[0])
    header = read_header(model)
    row = header.embedding_length * header.vocabulary_size
    tables = sum(name in header.tensors for name in ("token_embd.weight", "output.weight"))
    weights = header.parameters - tables * row
    flops = 2 * (each * weights + row)
    return (
        f"classify, {model.name}, on one GPU: {each:.1f} new tokens a sentence, {weights / 1e6:.0f} million weights in "
        f"the layers and {row / 1e6:.0f} million in the head make {flops / 1e9:.2f} GFLOP a sentence (attention not "
        f"counted). {GPU} has {GPU_FLOPS / 1e12:.1f} TFLOP/s in FP16; if prefill reaches {GPU_SHARE:.0%} of that, "
        f"which is assumed and not measured, the bound is {GPU_SHARE * GPU_FLOPS / flops:,.0f} sentences/s there. "
        f"{WANTED_ON_GPU:,} a second take {WANTED_ON_GPU * each:,.0f} prefill tokens/s, "
        f"{WANTED_ON_GPU * flops / GPU_FLOPS:.1%} of the GPU's peak."
    )
