"""How each slot samples, and the tokens it has seen, where the sampler's kernels read them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from inference.options import GenerateOptions
from inference_rocm.gpu.device import Device
from inference_rocm.gpu.kernels import settings

__all__ = ["Settings"]

LEAST_ROOM = 16
"""For biases of each slot."""


class Settings:
    """Tables with a row for each slot, on the device.

    reals: float32 [slots, columns]; integers: int64 [slots, columns]; the columns are those of kernels/settings.py.
    biased: int32 [slots, room], the ids of tokens that have a bias, in order; biases: float32, theirs.
    history: int32 [slots, context_length], the tokens of each sequence at their positions.
    """

    def __init__(self, device: Device, slots: int, context_length: int, vocabulary: int) -> None:
        self.vocabulary = vocabulary
        self.generation = 0
        """Goes up when tensors were made anew, and graphs that read the old ones must be captured again."""
        self._device = device.torch
        self.reals = torch.zeros(slots, settings.REALS.value, dtype=torch.float32, device=self._device)
        self.integers = torch.zeros(slots, settings.INTEGERS.value, dtype=torch.int64, device=self._device)
        self.history = torch.zeros(slots, context_length, dtype=torch.int32, device=self._device)
        self._make_room(LEAST_ROOM)

    @property
    def room(self) -> int:
        """For biases of each slot."""
        return self.biased.shape[1]

    def write(self, slot: int, options: GenerateOptions, seed: int, prompt: Sequence[int]) -> None:
        """What a slot's next sequence samples with. Waits for nothing: what the device's current stream was given
        before reads what was there before."""
        biases = sorted(options.logit_bias.items())
        window = min(options.repeat_window, self.history.shape[1]) if options.penalizes else 0
        if len(biases) > self.room:
            self._grow(len(biases))
        _write(self.reals[slot], _reals(options))
        _write(self.integers[slot], _integers(options, seed, self.vocabulary, window, len(biases)))
        if biases:
            _write(self.biased[slot, : len(biases)], [token for token, _ in biases])
            _write(self.biases[slot, : len(biases)], [bias for _, bias in biases])
        start = max(len(prompt) - window, 0)
        if start < len(prompt):
            _write(self.history[slot, start : len(prompt)], list(prompt[start:]))

    def _make_room(self, room: int) -> None:
        slots = self.reals.shape[0]
        self.biased = torch.zeros(slots, room, dtype=torch.int32, device=self._device)
        self.biases = torch.zeros(slots, room, dtype=torch.float32, device=self._device)

    def _grow(self, room: int) -> None:
        biased, biases = self.biased, self.biases
        self._make_room(1 << (room - 1).bit_length())
        self.biased[:, : biased.shape[1]].copy_(biased)
        self.biases[:, : biases.shape[1]].copy_(biases)
        self.generation += 1


def takes_likeliest(options: GenerateOptions) -> bool:
    return options.temperature == 0.0 or options.top_k == 1


def _reals(options: GenerateOptions) -> list[float]:
    greedy = takes_likeliest(options)
    values = {
        settings.SHARPNESS: 1.0 if greedy else 1.0 / options.temperature,
        settings.NOISE: 0.0 if greedy else 1.0,
        settings.TOP_P: options.top_p if options.top_p > 0.0 and not greedy else 1.0,
        settings.REACH: -math.log(options.min_p) if options.min_p > 0.0 and not greedy else math.inf,
        settings.REPEAT: options.repeat_penalty or 1.0,
        settings.FREQUENCY: options.frequency_penalty,
        settings.PRESENCE: options.presence_penalty,
    }
    return [value for _, value in sorted((column.value, value) for column, value in values.items())]


def _integers(options: GenerateOptions, seed: int, vocabulary: int, window: int, biases: int) -> list[int]:
    keeps_all = options.top_k == 0 or takes_likeliest(options)
    values = {
        settings.SEED: seed - (1 << 64) if seed >= 1 << 63 else seed,  # the same 64 bits
        settings.TOP_K: vocabulary if keeps_all else min(options.top_k, vocabulary),
        settings.WINDOW: window,
        settings.BIASES: biases,
    }
    return [value for _, value in sorted((column.value, value) for column, value in values.items())]


def _write(to: Tensor, values: Sequence[float]) -> None:
    """Copies `values`, by way of pinned memory where `to` is on a GPU: PyTorch keeps that until the copy is done."""
    source = torch.tensor(values, dtype=to.dtype)
    to.copy_(source if to.device.type == "cpu" else source.pin_memory(), non_blocking=True)
