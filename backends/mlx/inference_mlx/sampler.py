"""Drawing tokens from logits on the device, for a batch of sequences that each have their own settings.

Nothing here is evaluated: a step's tokens feed the next step, and the penalties' windows, while still on the device.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import mlx.core as mx

from inference.options import GenerateOptions
from inference_mlx.drawing import Draw, Way, column, way_of
from inference_mlx.random import key

__all__ = ["Sampler", "sample"]

LEAST_ROOM = 64
"""Of a window, so that it seldom grows."""


class Sampler:
    """One sequence's settings, and its window for the penalties."""

    def __init__(self, options: GenerateOptions, seed: int, prompt: Sequence[int]) -> None:
        self.options = options
        self._seed = seed
        biases = sorted(options.logit_bias.items())
        self.biased = mx.array([token for token, _ in biases], mx.uint32)
        self.biases = mx.array([bias for _, bias in biases], mx.float32)
        seen = list(prompt[-options.repeat_window :] if options.penalizes else ())
        room = max(len(seen), min(options.repeat_window, LEAST_ROOM))
        self.window = mx.array([0] * (room - len(seen)) + seen, mx.uint32)
        self.held = len(seen)

    @property
    def plain(self) -> bool:
        """Whether it takes the likeliest token of the logits as they are."""
        options = self.options
        return options.temperature == 0.0 and not options.penalizes and not options.logit_bias

    def draw(self, position: int) -> Draw:
        """How it draws the token at `position`."""
        return Draw(self.options, key(self._seed, position))

    def append(self, token: mx.array) -> None:
        """Slide the window over `token`, [1]. The window is the last `held` tokens of the array; what is before them
        is room, which doubles as it is needed: `repeat_window` may be far longer than the text ever gets."""
        most, room = self.options.repeat_window, self.window.size
        if self.held == room < most:
            self.window = mx.concatenate([mx.zeros(min(room, most - room), mx.uint32), self.window])
        self.window = mx.concatenate([self.window[1:], token])
        self.held = min(self.held + 1, most)


def sample(logits: mx.array, samplers: Sequence[Sampler], positions: Sequence[int]) -> mx.array:
    """The tokens at `positions`, uint32 [batch], lazy, from `logits`, [batch, vocabulary]; row i is of `samplers[i]`.

    A row's token hangs on its own logits, settings, seed and position, and not on the rows beside it.
    """
    if all(sampler.plain for sampler in samplers):
        return mx.argmax(logits, axis=-1)
    logits = _penalized(_biased(logits.astype(mx.float32), samplers), samplers)
    draws = [sampler.draw(position) for sampler, position in zip(samplers, positions, strict=True)]
    tokens = _drawn(logits, draws)
    for row, sampler in enumerate(samplers):
        if sampler.options.penalizes:
            sampler.append(tokens[row : row + 1])
    return tokens


def _biased(logits: mx.array, samplers: Sequence[Sampler]) -> mx.array:
    """`logits` with each row's biases added."""
    rows = [row for row, sampler in enumerate(samplers) if sampler.options.logit_bias]
    if not rows:
        return logits
    places = mx.concatenate([samplers[row].biased + row * logits.shape[-1] for row in rows])
    biases = mx.concatenate([samplers[row].biases for row in rows])
    return logits.flatten().at[places].add(biases).reshape(logits.shape)


def _penalized(logits: mx.array, samplers: Sequence[Sampler]) -> mx.array:
    """`logits` less what each row's repeat, frequency and presence penalties take from the tokens in its window."""
    rows = [row for row, sampler in enumerate(samplers) if sampler.options.penalizes]
    if not rows:
        return logits
    wanted = [samplers[row] for row in rows]
    room = max(sampler.window.size for sampler in wanted)
    windows = mx.stack([mx.pad(sampler.window, (room - sampler.window.size, 0)) for sampler in wanted])
    places = windows + column([row * logits.shape[-1] for row in rows], mx.uint32)
    held = mx.arange(room) >= column([room - sampler.held for sampler in wanted], mx.int32)
    repeat = column([sampler.options.repeat_penalty or 1.0 for sampler in wanted])
    frequency = column([sampler.options.frequency_penalty for sampler in wanted])
    presence = column([sampler.options.presence_penalty for sampler in wanted])

    flat = logits.flatten()
    counts = mx.zeros_like(flat).at[places].add(held.astype(mx.float32))[places]
    values = flat[places]
    lower = mx.where(values > 0, values / repeat, values * repeat) - counts * frequency - presence
    # A token that is there twice is written twice, with the same value; one that fills room keeps its own.
    flat[places] = mx.where(counts > 0, lower, values)
    return flat.reshape(logits.shape)


def _drawn(logits: mx.array, draws: Sequence[Draw]) -> mx.array:
    """The tokens that the rows draw from their biased and penalised logits."""
    ways: dict[Way, list[int]] = {}
    for row, draw in enumerate(draws):
        ways.setdefault(way_of(draw.options, logits.shape[-1]), []).append(row)
    if len(ways) == 1:
        (way,) = ways
        return way(logits, draws)
    tokens = mx.concatenate([way(logits[mx.array(rows)], [draws[row] for row in rows]) for way, rows in ways.items()])
    places = {row: place for place, row in enumerate(itertools.chain(*ways.values()))}
    return tokens[mx.array([places[row] for row in range(len(draws))])]
