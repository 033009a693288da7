"""The runner: one model in MLX, on one device."""

from __future__ import annotations

import traceback
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import mlx.core as mx

from inference.engine.results import NO_SAMPLE
from inference.errors import EngineError
from inference.options import GenerateOptions
from inference.protocols import Row
from inference.types import MemoryUse
from inference_mlx.decoder import Decoder
from inference_mlx.groups import Group
from inference_mlx.limits import Limits
from inference_mlx.passes import Feed, passes_of
from inference_mlx.pending import MLXPending
from inference_mlx.sampler import Sampler, sample
from inference_mlx.streams import leave_stream

__all__ = ["MLXRunner"]

STEPS_BETWEEN_CLEANINGS = 256
"""KV memory grows by pieces, and the buffers of the smaller ones before stay with MLX until it is told to let go."""


@dataclass(slots=True)
class _Slot:
    """What a slot holds, and the sequence that is open in it."""

    group: Group | None = None
    """Where its KV memory is; None if it holds nothing."""
    length: int = 0
    """Tokens in its KV memory once all launched steps are computed."""
    sampler: Sampler | None = None
    """None while the slot is closed."""
    logprobs: int = 0
    last: tuple[mx.array, int] | None = None
    """Where the token sampled last is, which is not in its KV memory yet: an array [n], and the place in it. It may be
    known to the device alone."""


class MLXRunner:
    """Implements `inference.protocols.Runner`. All of it runs on the engine's thread, where it was made."""

    lookahead = 1
    can_fork = True

    def __init__(
        self,
        decoder: Decoder,
        stream: mx.Stream,
        limits: Limits,
        *,
        context_length: int,
        max_slots: int,
        batch_size: int,
        padding: float,
    ) -> None:
        """`padding`: how much longer prompts may become by being computed together."""
        self.context_length = self.slot_length = context_length
        self.max_slots = self.slots = max_slots  # KV memory is made when tokens come: a slot is nothing before
        self.batch_size = batch_size
        self._decoder = decoder
        self._stream = stream
        self._limits = limits
        self._padding = padding
        self._slots = [_Slot() for _ in range(max_slots)]
        self._copied: list[Group] = []
        self._steps = 0

    def resize(self, slots: int, length: int, *, wait: bool) -> None:
        """Nothing: all slots are there."""

    def trim(self, slot: int, length: int) -> int:
        state = self._slots[slot]
        if length >= state.length:
            return state.length
        with mx.stream(self._stream):
            if length and self._together([slot]).cut(state.length - length):
                state.length = length
            else:
                self._drop(slot)
        return state.length

    def fork(self, source: int, slot: int, length: int) -> int:
        origin = self._slots[source]
        if origin.group is None or origin.length < length:
            return 0
        with mx.stream(self._stream):
            copy = origin.group.copied(slot, of=source)
            if not copy.cut(origin.length - length):
                return 0
        self._drop(slot)
        self._slots[slot] = _Slot(copy, length)
        self._copied.append(copy)
        return length

    def open(self, slot: int, options: GenerateOptions, seed: int, prompt: Sequence[int]) -> None:
        state = self._slots[slot]
        with mx.stream(self._stream):
            state.sampler = Sampler(options, seed, prompt)
        state.logprobs = options.logprobs
        state.last = None

    def step(self, rows: Sequence[Row]) -> MLXPending:
        self._steps += 1
        if self._steps % STEPS_BETWEEN_CLEANINGS == 0:
            mx.clear_cache()
            # A batch's offsets that no rope asks for would become an ever longer sum that nobody computes.
            self._copied += {id(slot.group): slot.group for slot in self._slots if slot.group is not None}.values()
        pending = MLXPending(rows)
        try:
            with mx.stream(self._stream):
                self._compute(rows, pending)
        except (RuntimeError, ValueError) as error:
            traceback.clear_frames(error.__traceback__)  # who keeps the error shall not keep KV memory
            raise EngineError(f"MLX failed: {error}") from error
        return pending

    def close(self, slot: int) -> None:
        state = self._slots[slot]
        state.sampler = None
        state.last = None

    def memory(self) -> MemoryUse:
        return self._limits.memory()

    def free(self) -> None:
        try:
            mx.synchronize(self._stream)
        finally:
            del self._decoder
            self._slots.clear()
            self._copied.clear()
            self._limits.release()
            leave_stream(self._stream)

    # One step ---------------------------------------------------------------------------------------------------------

    def _compute(self, rows: Sequence[Row], pending: MLXPending) -> None:
        states = [group.state for group in self._copied]
        self._copied.clear()
        asked: list[mx.array] = []
        asking: list[int] = []
        for feeds in passes_of(rows, self._padding, self._decoder.whole):
            group = self._together([feed.slot for feed in feeds])
            by_slot = {feed.slot: feed for feed in feeds}
            ordered = [by_slot[slot] for slot in group.slots]
            logits = self._advance(ordered, group)
            places = [place for place, feed in enumerate(ordered) if feed.row is not None]
            if places:
                asked.append(_chosen(logits, places))
                asking += [feed.row for feed in ordered if feed.row is not None]
            else:
                states.append(group.state)
                pending.mark(_newest(group))
        if asked:
            self._answer(rows, asking, asked[0] if len(asked) == 1 else mx.concatenate(asked), pending)
        pending.launch(states)

    def _advance(self, feeds: Sequence[Feed], group: Group) -> mx.array:
        """Feed a pass, in the group's order. Returns the logits after the last tokens: [slots, vocabulary]."""
        lengths = [feed.length for feed in feeds]
        tokens = self._tokens(feeds, max(lengths))
        padding = [max(lengths) - length for length in lengths]
        if max(lengths) > 1:
            group.straighten()
        if any(padding):
            for cache in group.caches:
                cache.prepare(lengths=lengths, right_padding=padding)
        logits = self._decoder(tokens, group.caches, [length - 1 for length in lengths])
        if any(padding):
            for cache in group.caches:
                cache.finalize()
        for feed in feeds:
            self._slots[feed.slot].length += feed.length
        return logits

    def _tokens(self, feeds: Sequence[Feed], length: int) -> mx.array:
        """Ids, [slots, length], padded on the right."""
        sampled = [self._last(feed.slot) for feed in feeds if feed.tokens is None]
        if len(sampled) < len(feeds):
            known = mx.array([[*(feed.tokens or (0,)), *[0] * (length - feed.length)] for feed in feeds])
            if not sampled:
                return known
            rows = iter(sampled)
            return mx.stack(
                [_one(next(rows)) if feed.tokens is None else known[place] for place, feed in enumerate(feeds)]
            )
        tokens, _ = sampled[0]
        if [place for _, place in sampled] == list(range(tokens.size)) and all(one is tokens for one, _ in sampled):
            return tokens[:, None]
        return mx.stack([_one(one) for one in sampled])

    def _answer(self, rows: Sequence[Row], asking: list[int], logits: mx.array, pending: MLXPending) -> None:
        """Ask of `logits`, [asking, vocabulary], what the rows want. `asking` are the indices of the rows."""
        drawing = [place for place, index in enumerate(asking) if rows[index].sample]
        if drawing:
            self._draw(rows, [asking[place] for place in drawing], _chosen(logits, drawing), pending)
        for place, index in enumerate(asking):
            if rows[index].score:
                pending.ask_scores(index, logits[place], rows[index].score)
            if rows[index].logits:
                pending.ask_logits(index, logits[place])
            if not rows[index].sample:
                pending.mark(logits[place, :1])

    def _draw(self, rows: Sequence[Row], drawing: list[int], logits: mx.array, pending: MLXPending) -> None:
        states = [self._slots[rows[index].slot] for index in drawing]
        samplers = [state.sampler for state in states if state.sampler is not None]
        tokens = sample(logits, samplers, [state.length for state in states])
        finite = mx.isfinite(mx.max(logits, axis=-1))  # the greatest of several is NaN if one of them is
        pending.sampled(drawing, mx.where(finite, tokens.astype(mx.int32), NO_SAMPLE))
        for place, (index, state) in enumerate(zip(drawing, states, strict=True)):
            state.last = tokens, place
            if state.logprobs:
                pending.ask_logprobs(index, logits[place], tokens[place : place + 1], state.logprobs)

    def _last(self, slot: int) -> tuple[mx.array, int]:
        last = self._slots[slot].last
        if last is None:
            raise EngineError(f"Slot {slot} is to go on, and has sampled nothing.")
        return last

    # KV memory --------------------------------------------------------------------------------------------------------

    def _together(self, slots: Collection[int]) -> Group:
        """A group of exactly these slots."""
        wanted = set(slots)
        groups = {id(group): group for slot in slots if (group := self._slots[slot].group) is not None}
        parts = [Group([slot], self._decoder.caches()) for slot in slots if self._slots[slot].group is None]
        for group in groups.values():
            if wanted.issuperset(group.slots):
                parts.append(group)
                continue
            for part in group.split(wanted):
                if wanted.issuperset(part.slots):
                    parts.append(part)
                else:
                    self._copied.append(part)
                    self._slots[part.slots[0]].group = part
        joined = Group.joined(parts)
        for slot in slots:
            self._slots[slot].group = joined
        return joined

    def _drop(self, slot: int) -> None:
        """The slot holds nothing any more."""
        state = self._slots[slot]
        if state.group is not None:
            state.group.forget(slot)
        state.group, state.length = None, 0


def _chosen(values: mx.array, places: list[int]) -> mx.array:
    """Some rows."""
    return values if len(places) == values.shape[0] else values[mx.array(places)]


def _one(sampled: tuple[mx.array, int]) -> mx.array:
    tokens, place = sampled
    return tokens[place : place + 1]


def _newest(group: Group) -> mx.array:
    """A number of its own memory that is there once the group's pass has been computed."""
    leaf = group.caches[-1].state
    while not isinstance(leaf, mx.array):
        leaf = leaf[0]
    return leaf[(0,) * leaf.ndim] + 0
