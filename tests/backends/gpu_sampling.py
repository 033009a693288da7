"""Steps of the GPU's sampler on any device; and in float64 the race that it runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import sampling_oracle as oracle
import torch
from inference_rocm.gpu.device import INTERPRETER, Device
from inference_rocm.gpu.sampler import Blocks, Kind, Sampler, kind_of
from numpy.typing import NDArray
from torch import Tensor

from inference.engine.random_words import random_word
from inference.options import GenerateOptions

__all__ = ["CONTEXT", "GREEDY", "Row", "Steps", "arrivals", "kept", "one", "require_first_to_arrive", "require_kept"]

GREEDY = GenerateOptions()
CONTEXT = 40
Row = tuple[Sequence[float], GenerateOptions, int, Sequence[int]]
"""Logits, options, seed, and the tokens before."""


class Steps:
    """Sequences in slots of their own, and steps of all of them; row i is of slot `slots[i]`."""

    def __init__(
        self,
        rows: Sequence[Row],
        *,
        blocks: Blocks | None = None,
        slots: Sequence[int] | None = None,
        device: Device = INTERPRETER,
    ) -> None:
        def integers(values: Iterable[int]) -> Tensor:
            return torch.tensor(list(values), dtype=torch.int32, device=device.torch)

        logits = np.array([logits for logits, *_ in rows], np.float32)
        self.logits = torch.tensor(logits, device=device.torch)
        self.slots = integers(range(len(rows)) if slots is None else slots)
        self.positions = integers(len(before) for *_, before in rows)
        self.last = integers([-7] * (int(self.slots.max()) + 1))
        self.kind = max(kind_of(options) for _, options, _, _ in rows)
        self.sampler = Sampler(device, len(self.last), CONTEXT, self.logits.shape[1], blocks=blocks)
        for slot, (_, options, seed, before) in zip(self.slots.tolist(), rows, strict=True):
            if slot >= 0:
                self.sampler.open(slot, options, seed, before)

    def step(self, kind: Kind | None = None) -> list[int]:
        """What the rows draw."""
        out = torch.full_like(self.slots, -9)
        kind = self.kind if kind is None else kind
        self.sampler.sample(self.logits, self.slots, self.positions, out, self.last, kind)
        self.positions += 1
        tokens: list[int] = out.tolist()
        return tokens


def one(logits: Sequence[float], options: GenerateOptions, before: Sequence[int] = (), **more: Any) -> int:
    return Steps([(logits, options, 0, before)], **more).step()[0]


def kept(steps: Steps, row: int = 0) -> set[int]:
    """The tokens that top-k and top-p left of a row in the step before."""
    work = steps.sampler.workspace
    gaps = abs(work.maxima[row].max() - work.values[row]).cpu().numpy()
    last = (int(work.last_keys[row]), int(work.last_tokens[row]))
    return {token for token, key in enumerate(gaps.view(np.int32).tolist()) if (key, token) <= last}


def require_kept(rows: Sequence[Row], device: Device, blocks: Blocks | None = None, *, rounding: float = 1e-6) -> None:
    """Top-k and top-p keep what their definition keeps, but for tokens that are so near to the cut by a share of all
    weights; and of those that are kept one is drawn."""
    steps = Steps(rows, blocks=blocks, device=device)
    for row, token in enumerate(steps.step(Kind.FILTERED)):
        logits, options, _, before = rows[row]
        values, found = oracle.adjusted(logits, options, before), kept(steps, row)
        most, least = (oracle.kept(values, replace(options, min_p=0.0), slack=each) for each in (rounding, -rounding))
        assert token in found
        assert set(least) <= found <= set(most)


def philox(key: int, counters: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Philox 4x32-10 of Random123: four 32-bit words for each counter, [counters, 4]."""
    low = np.uint64(0xFFFFFFFF)
    words = [counters & low, *(np.zeros_like(counters) for _ in range(3))]
    keys = [key & 0xFFFFFFFF, key >> 32]
    for _ in range(10):
        first, third = words[0] * np.uint64(0xD2511F53), words[2] * np.uint64(0xCD9E8D57)
        words = [
            (third >> np.uint64(32)) ^ words[1] ^ np.uint64(keys[0]),
            third & low,
            (first >> np.uint64(32)) ^ words[3] ^ np.uint64(keys[1]),
            first & low,
        ]
        keys = [(keys[0] + 0x9E3779B9) & 0xFFFFFFFF, (keys[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return np.stack(words, axis=1)


def arrivals(
    logits: Sequence[float], options: GenerateOptions, seed: int, before: Sequence[int]
) -> NDArray[np.float64]:
    """The race in float64: when each token arrives, as a logarithm; infinite for one that the filters throw out."""
    values = oracle.adjusted(logits, options, before)
    count = len(values)
    key = random_word(seed, len(before))
    words = philox(key, np.arange(-(-count // 4), dtype=np.uint64)).reshape(-1)[:count].astype(np.float64)
    times = np.full(count, np.inf)
    some = oracle.kept(values, options)
    times[some] = np.log(-np.log1p(-(words[some] + 0.5) / 2**32)) - values[some] / (options.temperature or 1.0)
    return times


def require_first_to_arrive(rows: Sequence[Row], device: Device) -> None:
    """Each row draws the kept token that arrives first, unless rounding may decide which are kept."""
    for (logits, options, seed, before), token in zip(rows, Steps(rows, device=device).step(), strict=True):
        values = oracle.adjusted(logits, options, before)
        if oracle.kept(values, options, slack=1e-5) == oracle.kept(values, options, slack=-1e-5):
            times = arrivals(logits, options, seed, before)
            assert times[token] <= times.min() + 1e-4
