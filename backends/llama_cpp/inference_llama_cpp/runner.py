"""The runner: one model in llama.cpp contexts, a sequence for each slot."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import isfinite
from typing import Any

from inference.engine.results import NO_SAMPLE, Results
from inference.errors import EngineError
from inference.options import GenerateOptions
from inference.protocols import Row
from inference.types import MemoryUse
from inference_llama_cpp.batch import Batch
from inference_llama_cpp.context import ContextSettings, make_context
from inference_llama_cpp.growth import Growth
from inference_llama_cpp.library import bindings, last_errors
from inference_llama_cpp.outputs import Outputs, copied, scored, with_likeliest
from inference_llama_cpp.sampler import SamplerChain
from inference_llama_cpp.tokenizer import LlamaTokenizer

__all__ = ["LlamaRunner"]

FIRST_LENGTH = 1024
"""Tokens that the first slot has room for, until a call wants more."""


@dataclass(slots=True)
class _Slot:
    """What a slot holds, and the sequence that is open in it."""

    context: Any
    length: int = 0
    """Tokens in its KV memory."""
    chain: SamplerChain | None = None
    """None while the slot is closed."""
    logprobs: int = 0
    on_device: bool = False
    """Whether the chain is part of the compute graph."""
    last: int = NO_SAMPLE
    """The token sampled last, not in its KV memory yet."""


class LlamaRunner:
    """Implements `inference.protocols.Runner`. Owns the model's handle, from the call on, and its tokenizer.

    More or longer slots take another context: llama.cpp fills all of its KV memory with zeros, so there is no more of
    it than calls have asked for. A slot that is open stays in the context it began in, since llama.cpp cannot move a
    sequence while others of its context run; slots opened from then on go to the newest one, and an older one is freed
    with its last sequence. Until then a step takes a pass for each context.
    """

    lookahead = 0

    def __init__(
        self, model: Any, tokenizer: LlamaTokenizer, settings: ContextSettings, max_slots: int, sample_on_device: bool
    ) -> None:
        self.max_slots = max_slots
        self.slots = 1
        self.context_length = settings.context_length
        self.slot_length = min(settings.context_length, FIRST_LENGTH)
        self.batch_size = settings.batch_size
        # A state that is not kept for each token cannot be cut, so a copy of it is of no use.
        self.can_fork = not (bindings.llama_model_is_recurrent(model) or bindings.llama_model_is_hybrid(model))
        self._model = model
        self._tokenizer = tokenizer
        self._settings = settings
        self._sample_on_device = sample_on_device
        self._vocabulary_size = tokenizer.vocabulary_size
        self._slots: dict[int, _Slot] = {}
        self._copied: set[int] = set()
        """Slots that were copied since the newest context computed."""
        try:
            self._contexts = [make_context(model, settings, self.slots, self.slot_length)]
        except BaseException:
            bindings.llama_model_free(model)
            raise
        self._growth: Growth | None = None
        self._memory = MemoryUse(0, 0, measured=False)
        self._account(settings.kv_bytes(self.slots, self.slot_length))
        self._batch = Batch(settings.batch_size, max_slots)
        self._outputs = Outputs(self._vocabulary_size)

    def resize(self, slots: int, length: int, *, wait: bool) -> None:
        if self._growth is None:
            self._settings.require_memory(slots, length)
            self._growth = Growth(self._model, self._settings, slots, length)
        if not (wait or self._growth.done):
            return
        growth, self._growth = self._growth, None
        self._contexts.append(growth.context())
        if growth.slots == self.slots:
            self._move_closed_slots()
        self._copied.clear()
        self.slots, self.slot_length = growth.slots, growth.length
        self._account(self._settings.kv_bytes(self.slots, self.slot_length))
        self._free_empty_contexts()

    def _move_closed_slots(self) -> None:
        """Take what closed slots hold along to the newest context. llama.cpp reads a sequence's state only into a
        context of as many sequences."""
        before, newest = self._contexts[-2:]
        for slot, state in self._slots.items():
            # A copy is only made when its context computes next: until then there is nothing to take along.
            if state.chain is None and state.context is before and state.length and slot not in self._copied:
                size = bindings.llama_state_seq_get_size(before, slot)
                data = (ctypes.c_uint8 * size)()
                bindings.llama_state_seq_get_data(before, data, size, slot)
                moved = bindings.llama_state_seq_set_data(newest, data, size, slot)
                self._slots[slot] = _Slot(newest, state.length if moved else 0)

    def trim(self, slot: int, length: int) -> int:
        state = self._slots.get(slot)
        if state is None or (state.chain is None and state.context is not self._contexts[-1]):
            return 0
        if length == state.length:
            return length
        memory = bindings.llama_get_memory(state.context)
        cut = 0 < length < state.length and bindings.llama_memory_seq_rm(memory, slot, length, -1)
        # Some memories forget more than they were told to, or have forgotten the beginning.
        first = bindings.llama_memory_seq_pos_min(memory, slot)
        last = bindings.llama_memory_seq_pos_max(memory, slot)
        if cut and (first, last) == (0, length - 1):
            state.length = length
        else:
            self._empty(state, slot)
        return state.length

    def fork(self, source: int, slot: int, length: int) -> int:
        newest = self._contexts[-1]
        origin = self._slots.get(source)
        if origin is None or origin.context is not newest or origin.length < length:
            return 0
        state = self._slots[slot] = _Slot(newest)
        self._copied.add(slot)
        # The whole of it, then the end removed: a part of a stream cannot be copied to another one.
        bindings.llama_memory_seq_cp(bindings.llama_get_memory(newest), source, slot, -1, -1)
        state.length = origin.length
        return self.trim(slot, length)

    def open(self, slot: int, options: GenerateOptions, seed: int, prompt: Sequence[int]) -> None:
        context = self._contexts[-1]
        state = self._slots.get(slot)
        if state is None or state.context is not context:
            state = self._slots[slot] = _Slot(context)
        state.chain = SamplerChain(options, seed, self._vocabulary_size, prompt, self.context_length)
        state.logprobs = options.logprobs
        # In the graph a row has no logits left to read, so a row that wants them is sampled on the host.
        state.on_device = (
            self._sample_on_device
            and not options.logprobs
            and bindings.llama_set_sampler(context, slot, state.chain.handle)
        )

    def step(self, rows: Sequence[Row]) -> Results:
        done = Results(len(rows))
        for context in self._contexts:
            mine = [index for index, row in enumerate(rows) if self._slots[row.slot].context is context]
            for part in _passes(mine, rows):
                outputs = self._decode(context, [rows[index] for index in part])
                for index, output in zip(part, outputs, strict=True):
                    if rows[index].asks:
                        self._answer(done, index, rows[index], output)
        return done

    def close(self, slot: int) -> None:
        state = self._slots.get(slot)
        if state is None or state.chain is None:
            return
        if state.on_device:
            bindings.llama_set_sampler(state.context, slot, None)
        state.chain.free()
        state.chain = None
        self._free_empty_contexts()

    def memory(self) -> MemoryUse:
        return self._memory

    def free(self) -> None:
        if not self._contexts:
            return
        for slot in list(self._slots):
            self.close(slot)
        self._tokenizer.close()
        if self._growth is not None:
            self._growth.drop()
        bindings.llama_free(self._contexts.pop())
        bindings.llama_model_free(self._model)

    def _empty(self, state: _Slot, slot: int) -> None:
        bindings.llama_memory_seq_rm(bindings.llama_get_memory(state.context), slot, -1, -1)
        state.length = 0

    def _free_empty_contexts(self) -> None:
        for context in self._contexts[:-1]:
            here = [slot for slot, state in self._slots.items() if state.context is context]
            if not any(self._slots[slot].chain for slot in here):
                for slot in here:
                    del self._slots[slot]
                self._contexts.remove(context)
                self._outputs.forget()
                slots, tokens = bindings.llama_n_seq_max(context), bindings.llama_n_ctx(context)
                self._account(-self._settings.kv_bytes(slots, tokens // slots))
                bindings.llama_free(context)

    def _account(self, kv_bytes: int) -> None:
        """Count KV memory that came or went; llama.cpp does not tell what its buffers take."""
        active = (self._memory.active_bytes or int(bindings.llama_model_size(self._model))) + kv_bytes
        self._memory = MemoryUse(active, max(active, self._memory.peak_bytes), measured=False)

    def _decode(self, context: Any, rows: Iterable[Row]) -> list[int]:
        """One call of `llama_decode`; returns the index in the batch of each row's last token."""
        batch = self._batch
        batch.clear()
        outputs = []
        for row in rows:
            state = self._slots[row.slot]
            if row.feed is None:
                outputs.append(batch.add_token(row.slot, state.last, state.length))
                state.length += 1
            else:
                outputs.append(batch.add_tokens(row.slot, row.feed, state.length, output=row.asks))
                state.length += len(row.feed)
        status = bindings.llama_decode(context, batch.struct)
        if self._copied and context is self._contexts[-1]:
            self._copied.clear()
        if status != 0:
            words = " / ".join(last_errors()) or "it does not say why"
            raise EngineError(f"llama_decode failed with status {status}: {words}.")
        return outputs

    def _answer(self, done: Results, index: int, row: Row, output: int) -> None:
        """Put what the row asks for at `index` of the results."""
        state = self._slots[row.slot]
        chain = state.chain
        assert chain is not None
        if state.on_device:
            state.last = bindings.llama_sampler_sample(chain.handle, state.context, output)
            done.tokens()[index] = state.last
            return
        logits = self._outputs.logits(state.context, output)
        if row.sample:
            # numpy finds the likeliest token ten times faster than llama.cpp's sampler
            state.last = (
                int(logits.argmax())
                if chain.plain
                else bindings.llama_sampler_sample(chain.handle, state.context, output)
            )
            if isfinite(logits.item(state.last)):
                done.tokens()[index] = state.last
                if state.logprobs:
                    done.logprobs()[index] = with_likeliest(logits, state.last, state.logprobs)
        if row.score:
            done.scores()[index] = scored(logits, row.score)
        if row.logits:
            done.logits()[index] = copied(logits)


def _passes(indices: Sequence[int], rows: Sequence[Row]) -> Iterator[list[int]]:
    """The rows of one context, those that feed equally many tokens together.

    llama.cpp cuts a batch into pieces in which every sequence has equally many tokens, and goes over all weights for
    each piece. Of rows of unequal length it would make a piece for every difference.
    """

    if len(indices) == 1:
        yield [*indices]
        return

    def length(index: int) -> int:
        feed = rows[index].feed
        return 1 if feed is None else len(feed)

    ordered = sorted(indices, key=lambda index: (length(index), rows[index].slot))
    for _, group in groupby(ordered, key=length):
        yield list(group)
