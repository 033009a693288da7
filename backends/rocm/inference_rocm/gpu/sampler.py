"""Sampling on the device: from logits to tokens, for rows of slots that each have their own settings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor

from inference.options import GenerateOptions
from inference_rocm.gpu.device import Device
from inference_rocm.gpu.kernels import narrow, race
from inference_rocm.gpu.sampler_settings import Settings, takes_likeliest
from inference_rocm.gpu.specimen import Specimen, options

__all__ = ["Kind", "Sampler", "kind_of", "specimens"]

LANES = 256
"""Of a program."""
LEAST_BLOCK = 1024
MOST_BLOCKS = 128
LARGEST_INTERPRETED = 1 << 16
VOCABULARIES = (49152, 128256, 151936, 262144)
"""Of SmolLM2, Llama 3, Qwen 3 and Gemma 3."""


class Kind(IntEnum):
    """What a step has to do, and so which kernels run. A greater one does all that a lesser one does."""

    GREEDY = 0
    """Every row takes the likeliest token of its logits as they are: two launches."""
    DRAW = 1
    """Biases, penalties, temperature: two launches."""
    FILTERED = 2
    """Top-k, top-p, min-p: six launches."""


def kind_of(options: GenerateOptions) -> Kind:
    """The least kind of step that samples with `options`."""
    if not takes_likeliest(options) and (0.0 < options.top_p < 1.0 or options.top_k > 0 or options.min_p > 0.0):
        return Kind.FILTERED
    if not takes_likeliest(options) or options.penalizes or options.logit_bias:
        return Kind.DRAW
    return Kind.GREEDY


@dataclass(frozen=True, slots=True)
class Blocks:
    """How a vocabulary is shared out among programs. It hangs on nothing else, so that a row draws the same in any
    batch."""

    size: int
    count: int
    part: int
    """Tokens that are counted at a time."""
    span: int
    """Tokens of a window for the penalties that are counted at a time."""
    listed: int
    """Tokens that are looked at a time where the cuts are found."""
    digit: int
    """Bits of a key that one look at the listed tokens finds: 4 or 8."""

    @property
    def padded(self) -> int:
        return _power_of_two(self.count)


def blocks_of(vocabulary: int, device: Device) -> Blocks:
    """The blocks of a vocabulary of this size."""
    if device.interpreted:
        size = min(max(_power_of_two(vocabulary), 4), LARGEST_INTERPRETED)
        return Blocks(size, -(-vocabulary // size), min(size, 1 << 14), 64, min(size, 2048), 8)
    size = max(LEAST_BLOCK, _power_of_two(-(-vocabulary // MOST_BLOCKS)))
    return Blocks(size, -(-vocabulary // size), 64, 64, 256, 4)


class Workspace:
    """What the kernels of a step leave for those after them, for so many rows: a number for each token or block; and
    where top-k and top-p cut each row, `last_keys` and `last_tokens`."""

    def __init__(self, kind: Kind, rows: int, vocabulary: int, blocks: Blocks, device: torch.device) -> None:
        def reals(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float32, device=device)

        def integers(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.int32, device=device)

        self.kind = kind
        self.rows = rows
        self.maxima = reals(rows, blocks.count)
        self.times = reals(rows, blocks.count)
        self.tokens = integers(rows, blocks.count)
        if kind is not Kind.FILTERED:
            return
        self.values = reals(rows, vocabulary)
        self.counts = reals(rows, blocks.count, narrow.BINS.value)
        self.weights = reals(rows, blocks.count, narrow.BINS.value)
        self.ranges = integers(rows, 2)
        self.listed_keys = integers(rows, vocabulary)
        self.listed_tokens = integers(rows, vocabulary)
        self.last_keys = integers(rows)
        self.last_tokens = integers(rows)

    @property
    def size_bytes(self) -> int:
        return sum(each.nbytes for each in vars(self).values() if isinstance(each, Tensor))


class Sampler:
    """Bias, penalties, top-k, top-p, min-p, temperature, draw: in this order, all on the device and without waiting."""

    def __init__(
        self, device: Device, slots: int, context_length: int, vocabulary: int, *, blocks: Blocks | None = None
    ) -> None:
        """Slots are numbered from 0. `blocks` other than the device's own are for tests."""
        self._device = device
        self._vocabulary = vocabulary
        self._blocks = blocks or blocks_of(vocabulary, device)
        self._warps = LANES // device.wave
        self._settings = Settings(device, slots, context_length, vocabulary)
        self.workspace = self._workspace(0, Kind.GREEDY)
        self._made = 0

    @property
    def generation(self) -> int:
        """Another number than before means that graphs must be captured anew: they hold addresses that have changed."""
        return self._settings.generation + self._made

    @property
    def history(self) -> Tensor:
        """int32 [slots, context_length]: the tokens of each sequence at their positions, as far as penalties see
        them."""
        return self._settings.history

    def open(self, slot: int, options: GenerateOptions, seed: int, prompt: Sequence[int]) -> None:
        """A sequence begins in the slot; prompt[i] is at position i; `seed` has at most 64 bits.

        May change `generation`. Work that the current stream was given before is not disturbed.
        """
        self._settings.write(slot, options, seed, prompt)

    def lacks(self, rows: int, kind: Kind) -> bool:
        """Whether there is less room than that."""
        return rows > self.workspace.rows or kind > self.workspace.kind

    def reserve(self, rows: int, kind: Kind) -> None:
        """Make room for steps of so many rows. Call it before a graph is captured; it may change `generation`."""
        here = self.workspace
        if self.lacks(rows, kind):
            # A power of two, so that ever more rows do not mean ever new workspaces.
            rows, kind = max(1 << (rows - 1).bit_length(), here.rows), max(kind, here.kind)
            self._made += 1
            self.workspace = self._workspace(0, Kind.GREEDY)  # the old one's memory may be what the new one takes
            self.workspace = self._workspace(rows, kind)

    def _workspace(self, rows: int, kind: Kind) -> Workspace:
        return Workspace(kind, rows, self._vocabulary, self._blocks, self._device.torch)

    def sample(self, logits: Tensor, slots: Tensor, positions: Tensor, out: Tensor, last: Tensor, kind: Kind) -> None:
        """Draw the tokens at `positions` of `slots`, int32 [rows], from `logits`, float32 [rows, vocabulary], which are
        left as they are. The `kind` of the step is the greatest of its rows' or a greater one.

        out, int32 [rows], gets the token of each row, and -1 where the greatest logit is not finite; last, int32
        [slots], and `history` get it as well, but 0 in that case. Nothing is written for a row whose slot is negative.
        """
        self.reserve(len(logits), kind)
        if kind is Kind.GREEDY:
            self._greedy(logits, slots)
        elif kind is Kind.DRAW:
            self._draw(logits, slots, positions)
        else:
            self._filtered(logits, slots, positions)
        self._finish(slots, positions, out, last)

    def _greedy(self, logits: Tensor, slots: Tensor) -> None:
        work, blocks = self.workspace, self._blocks
        race.greedy[(blocks.count, len(logits))](
            logits, logits.stride(0), slots, work.maxima, work.times, work.tokens, self._vocabulary,
            **_constants("greedy", blocks), **options(self._warps),
        )  # fmt: skip

    def _draw(self, logits: Tensor, slots: Tensor, positions: Tensor) -> None:
        work, blocks, of = self.workspace, self._blocks, self._settings
        race.draw[(blocks.count, len(logits))](
            logits, logits.stride(0), slots, positions, of.reals, of.integers, of.biased, of.biases, of.room,
            of.history, of.history.shape[1], work.maxima, work.times, work.tokens, self._vocabulary,
            **_constants("draw", blocks), **options(self._warps),
        )  # fmt: skip

    def _filtered(self, logits: Tensor, slots: Tensor, positions: Tensor) -> None:
        self._cut(logits, slots, positions)
        work, blocks, of = self.workspace, self._blocks, self._settings
        race.race[(blocks.count, len(logits))](
            work.values, slots, positions, of.reals, of.integers, work.maxima, work.last_keys, work.last_tokens,
            work.times, work.tokens, self._vocabulary, **_constants("race", blocks), **options(self._warps),
        )  # fmt: skip

    def _cut(self, logits: Tensor, slots: Tensor, positions: Tensor) -> None:
        """Where top-k and top-p cut the rows."""
        work, blocks, of = self.workspace, self._blocks, self._settings
        grid, warps = (blocks.count, len(logits)), self._warps
        race.adjust[grid](
            logits, logits.stride(0), slots, positions, of.reals, of.integers, of.biased, of.biases, of.room,
            of.history, of.history.shape[1], work.values, work.maxima, self._vocabulary,
            **_constants("adjust", blocks), **options(warps),
        )  # fmt: skip
        narrow.count[grid](
            work.values, slots, of.reals, of.integers, work.maxima, work.counts, work.weights, self._vocabulary,
            **_constants("count", blocks), **options(warps),
        )  # fmt: skip
        narrow.gather[grid](
            work.values, slots, of.reals, of.integers, work.maxima, work.counts, work.weights, work.ranges,
            work.listed_keys, work.listed_tokens, self._vocabulary, **_constants("gather", blocks), **options(warps),
        )  # fmt: skip
        narrow.cut[(len(logits),)](
            slots, of.reals, of.integers, work.maxima, work.counts, work.weights, work.ranges,
            work.listed_keys, work.listed_tokens, work.last_keys, work.last_tokens, self._vocabulary, blocks.count,
            **_constants("cut", blocks), **options(warps),
        )  # fmt: skip

    def _finish(self, slots: Tensor, positions: Tensor, out: Tensor, last: Tensor) -> None:
        work, blocks, of = self.workspace, self._blocks, self._settings
        race.finish[(len(slots),)](
            slots, positions, of.reals, work.maxima, work.times, work.tokens, out, last, of.history,
            of.history.shape[1], blocks.count, **_constants("finish", blocks), **options(1),
        )  # fmt: skip


def _constants(kernel: str, blocks: Blocks) -> dict[str, int]:
    whole, adjusting = {"BLOCK": blocks.size}, {"BLOCK": blocks.size, "SPAN": blocks.span}
    return {
        "greedy": whole,
        "draw": adjusting,
        "adjust": adjusting,
        "race": {"BLOCK": blocks.size, "BLOCKS": blocks.padded},
        "finish": {"BLOCKS": blocks.padded},
        "count": {"BLOCK": blocks.size, "PART": blocks.part, "BLOCKS": blocks.padded},
        "gather": {"BLOCK": blocks.size, "BLOCKS": blocks.padded},
        "cut": {"BLOCKS": blocks.padded, "PART": blocks.listed, "BITS": blocks.digit},
    }[kernel]


def _power_of_two(number: int) -> int:
    """The least that is no less than `number`, >= 1."""
    return 1 << (number - 1).bit_length()


# For compiling ahead of time ------------------------------------------------------------------------------------------

_REALS = ("logits", "values", "reals", "biases", "maxima", "times", "counts", "weights")
_INTEGERS = (
    "slots", "positions", "biased", "history", "tokens", "ranges", "keys", "last_keys", "last_tokens", "out", "last",
)  # fmt: skip
_TYPES = {
    **dict.fromkeys(_REALS, "*fp32"),
    **dict.fromkeys(_INTEGERS, "*i32"),
    **dict.fromkeys(("stride", "room", "context_length", "vocabulary", "blocks"), "i32"),
    "integers": "*i64",
}
_KERNELS: dict[str, Any] = {
    kernel.__name__: kernel
    for kernel in (
        race.greedy, race.draw, race.adjust, race.race, race.finish, narrow.count, narrow.gather, narrow.cut,
    )
}  # fmt: skip


def specimens(wave: int) -> Iterator[Specimen]:
    """All kernels, for the vocabularies of real models."""
    device = Device(torch.device("cpu"), wave, units=1)
    for vocabulary in VOCABULARIES:
        blocks = blocks_of(vocabulary, device)
        for name, kernel in _KERNELS.items():
            constants = _constants(name, blocks)
            arguments = {argument: _TYPES[argument] for argument in kernel.arg_names if argument not in constants}
            warps = 1 if name == "finish" else LANES // wave
            yield Specimen(
                name=f"{name} {vocabulary}", kernel=kernel, arguments=arguments, constants=constants, warps=warps
            )
