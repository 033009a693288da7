"""The runner: one model on one GPU, a step ahead of what is read."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from inference.engine.results import NO_SAMPLE
from inference.errors import EngineError
from inference.options import GenerateOptions
from inference.protocols import Row
from inference.types import MemoryUse
from inference_rocm.decoder import Decoder
from inference_rocm.gpu.device import Device
from inference_rocm.gpu.embedding import Embedding
from inference_rocm.gpu.graphs import Graphs
from inference_rocm.gpu.memory import memory_use, ran_out, release, require
from inference_rocm.gpu.pending import GPUPending
from inference_rocm.gpu.places import Places
from inference_rocm.gpu.sampler import Kind, Sampler, kind_of
from inference_rocm.gpu.span_attention import query_tiles, tile_tokens
from inference_rocm.gpu.transfer import sent, sent_apart
from inference_rocm.kv_slots import KVSlots
from inference_rocm.spans import Span

__all__ = ["GPURunner"]

GO_ON = -1
"""In the place of a token: the one that the slot drew last, which the device alone knows."""
NOWHERE = -1
"""In the place of a slot: nothing is stored, nothing is drawn."""

WARM_UP_TOKENS = 128
"""Enough for a prompt's activations to be of the half type."""
FILLER = (0, NOWHERE, 0, NOWHERE)
"""The inputs of a row that only fills a pass."""


@dataclass(slots=True)
class _Slot:
    """The sequence that is open in a slot."""

    logprobs: int = 0
    kind: Kind = Kind.GREEDY


@dataclass(frozen=True, slots=True)
class _Bucket:
    """The memory of a captured pass of so many slots, one token each."""

    inputs: Tensor
    """int32 [4, rows]: tokens, slots, positions, and the slots that draw."""
    logits: Tensor
    """float32 [rows, vocabulary]: the first of all buckets' memory, for passes run one after the other."""
    drawn: Tensor
    """int32 [rows]."""


class GPURunner:
    """Implements `inference.protocols.Runner`. Tokens that are drawn are fed from where they are, on the device."""

    lookahead = 1
    can_fork = True

    def __init__(
        self,
        decoder: Decoder[Places],
        embedding: Embedding,
        rope_factors: Sequence[float] | None,
        device: Device,
        *,
        context_length: int,
        max_slots: int,
        batch_size: int,
        workspace: int,
    ) -> None:
        """`workspace`: bytes that KV memory leaves to steps."""
        self.context_length = context_length
        self.max_slots = max_slots
        self.batch_size = batch_size
        self._decoder = decoder
        self._embedding = embedding
        self._device = device
        config = decoder.config
        self._workspace = workspace
        self._kv = KVSlots(
            decoder, rope_factors, context_length, device.torch, require(device, lambda: self._workspace_left)
        )
        self._sampler = Sampler(device, max_slots, context_length, config.vocabulary_size)
        self._logits = torch.empty(0, config.vocabulary_size, device=device.torch)
        self._last = torch.zeros(max_slots, dtype=torch.int32, device=device.torch)
        self._slots = [_Slot() for _ in range(max_slots)]
        self._tile = tile_tokens(config.heads, config.kv_heads, config.head_length, device)
        self._graphs = Graphs(device)
        self._buckets: dict[int, _Bucket] = {}
        self._generation = self._sampler.generation
        self._freed = False

    @property
    def slots(self) -> int:
        return self._kv.count

    @property
    def slot_length(self) -> int:
        return self._kv.length

    @torch.inference_mode()
    def resize(self, slots: int, length: int, *, wait: bool) -> None:  # noqa: ARG002 - it is always there at once
        if slots > self.slots or length > self.slot_length:
            self._graphs.forget()  # before, for they hold memory too
            self._kv.resize(slots, length)

    def trim(self, slot: int, length: int) -> int:
        return self._kv.trim(slot, length)

    @torch.inference_mode()
    def fork(self, source: int, slot: int, length: int) -> int:
        return self._kv.fork(source, slot, length)

    @torch.inference_mode()
    def open(self, slot: int, options: GenerateOptions, seed: int, prompt: Sequence[int]) -> None:
        self._kv.lengths.setdefault(slot, 0)
        self._sampler.open(slot, options, seed, prompt)
        self._slots[slot] = _Slot(logprobs=options.logprobs, kind=kind_of(options))

    @torch.inference_mode()
    def step(self, rows: Sequence[Row]) -> GPUPending:
        self._device.activate()
        pending = GPUPending(self._device, len(rows))
        single = [index for index, row in enumerate(rows) if row.feed is None or len(row.feed) == 1]
        longer = [index for index, row in enumerate(rows) if row.feed is not None and len(row.feed) > 1]
        try:
            if single:
                self._decode(rows, single, pending)
            if longer:
                self._prefill(rows, longer, pending)
            return pending.launched()
        except Exception as error:  # Triton's are of no common kind
            traceback.clear_frames(error.__traceback__)  # who keeps the error shall not keep the step's tensors
            fed = sum(1 if row.feed is None else len(row.feed) for row in rows)
            what = f"memory ran out in a step of {fed} tokens: lower `batch_size`" if ran_out(error) else error
            raise EngineError(f"The GPU failed: {what}") from error

    def close(self, slot: int) -> None:
        self._slots[slot] = _Slot()

    def warm_up(self) -> None:
        """Have the kernels of a prompt and of a step compiled, which no stream shall wait for, before there is one."""
        if not self._device.interpreted:
            for feed in ([0] * min(WARM_UP_TOKENS, self.slot_length), [0]):
                self._kv.lengths[0] = 0
                self.step([Row(0, feed)]).tokens()
            self._kv.lengths[0] = 0

    def memory(self) -> MemoryUse | None:
        try:
            kv, weights = self._kv, self._decoder.size_bytes
        except AttributeError:  # it is freed meanwhile, on another thread
            return None
        return memory_use(self._device, weights, kv.cache.size_bytes, kv.peak_bytes)

    def free(self) -> None:
        if self._freed:
            return
        self._freed = True
        self._graphs.forget()
        self._buckets.clear()
        del self._decoder, self._embedding, self._kv, self._sampler, self._last, self._logits
        release(self._device)

    @property
    def _workspace_left(self) -> int:
        return max(0, self._workspace - self._sampler.workspace.size_bytes - self._logits.nbytes)

    # Decoding: a token of each of some slots --------------------------------------------------------------------------

    def _decode(self, rows: Sequence[Row], indices: list[int], pending: GPUPending) -> None:
        count = 1 << (len(indices) - 1).bit_length()
        inputs: list[list[int]] = [[], [], [], []]
        for index in indices:
            row = rows[index]
            token = GO_ON if row.feed is None else row.feed[0]
            drawing = row.slot if row.sample else NOWHERE
            for column, value in zip(inputs, (token, row.slot, self._kv.lengths[row.slot], drawing), strict=True):
                column.append(value)
            self._kv.lengths[row.slot] += 1
        for column, filler in zip(inputs, FILLER, strict=True):
            column += [filler] * (count - len(indices))
        kind = max(self._slots[rows[index].slot].kind for index in indices)
        self._make_room(kind)
        bucket = self._bucket(count)
        key = (count, kind)
        if key not in self._graphs:  # what is in the inputs meanwhile goes nowhere
            bucket.inputs.copy_(sent([[filler] * count for filler in FILLER], self._device))
            self._graphs.prepare(key, lambda: self._pass(bucket, kind))
        bucket.inputs.copy_(sent(inputs, self._device))
        self._graphs.run(key)
        self._answer(rows, indices, bucket.logits, bucket.drawn, pending)

    def _make_room(self, kind: Kind) -> None:
        """For as many rows as there are slots, so that no bucket moves memory that another one has captured."""
        rows = 1 << (self.slots - 1).bit_length()
        if self._sampler.lacks(rows, kind):
            self._graphs.forget()  # before, for they hold memory too
        self._sampler.reserve(rows, kind)
        if rows > len(self._logits):
            self._graphs.forget()
            self._buckets.clear()
            vocabulary = self._logits.shape[1]
            self._logits = self._logits.new_empty(0, vocabulary)  # the old ones' memory may be what the new ones take
            self._logits = self._logits.new_empty(rows, vocabulary)
        if self._generation != self._sampler.generation:
            self._graphs.forget()
            self._generation = self._sampler.generation

    def _bucket(self, count: int) -> _Bucket:
        bucket = self._buckets.get(count)
        if bucket is None:
            device = self._device.torch
            bucket = self._buckets[count] = _Bucket(
                torch.full((4, max(count, 4)), NOWHERE, dtype=torch.int32, device=device)[:, :count],
                self._logits[:count],
                torch.full((count,), NO_SAMPLE, dtype=torch.int32, device=device),
            )
        return bucket

    def _pass(self, bucket: _Bucket, kind: Kind) -> None:
        """What is captured: from the last tokens to the next ones."""
        tokens, slots, positions, drawing = bucket.inputs
        bucket.drawn.fill_(NO_SAMPLE)
        embeddings = self._embedding(tokens, self._last, slots)
        hidden = self._decoder.hidden(embeddings, Places(slots, positions), self._kv.cache, self._kv.rotaries)
        bucket.logits.copy_(self._decoder.logits(hidden))
        self._sampler.sample(bucket.logits, drawing, positions + 1, bucket.drawn, self._last, kind)

    # Prefill: many tokens of some slots -------------------------------------------------------------------------------

    def _prefill(self, rows: Sequence[Row], indices: list[int], pending: GPUPending) -> None:
        spans = [self._span(rows[index]) for index in indices]
        numbers = [
            [token for span in spans for token in span.tokens],
            [span.slot for span in spans for _ in span.tokens],
            [position for span in spans for position in range(span.start, span.end)],
        ]
        tokens, slots, positions = sent_apart(numbers, self._device)
        places = Places(slots, positions, sent(query_tiles(spans, self._tile), self._device))
        embeddings = self._embedding(tokens, self._last, slots)
        hidden = self._decoder.hidden(embeddings, places, self._kv.cache, self._kv.rotaries)
        for span in spans:
            self._kv.lengths[span.slot] = span.end
        asking = [place for place, index in enumerate(indices) if rows[index].asks]
        if not asking:
            return
        ends, row = [], -1
        for span in spans:
            row += len(span.tokens)
            ends.append(row)
        indices = [indices[place] for place in asking]
        logits = self._decoder.logits(hidden[sent([ends[place] for place in asking], self._device).long()])
        drawn = torch.full((len(indices),), NO_SAMPLE, dtype=torch.int32, device=self._device.torch)
        drawing = [
            [rows[index].slot if rows[index].sample else NOWHERE for index in indices],
            [spans[place].end for place in asking],
        ]
        kind = max(self._slots[rows[index].slot].kind for index in indices)
        slots, positions = sent_apart(drawing, self._device)
        self._sampler.sample(logits, slots, positions, drawn, self._last, kind)
        self._answer(rows, indices, logits, drawn, pending)

    def _span(self, row: Row) -> Span:
        return Span(row.slot, self._kv.lengths[row.slot], row.feed or ())

    def _answer(
        self, rows: Sequence[Row], indices: list[int], logits: Tensor, drawn: Tensor, pending: GPUPending
    ) -> None:
        """Ask for what the rows at `indices` want, in whose order `logits` and `drawn` are."""
        pending.sampled(indices, drawn)
        for place, index in enumerate(indices):
            row, logprobs = rows[index], self._slots[rows[index].slot].logprobs
            if row.sample and logprobs:
                pending.ask_logprobs(index, logits[place], drawn[place : place + 1], logprobs)
            if row.score:
                pending.ask_scores(index, logits[place], row.score)
            if row.logits:
                pending.ask_logits(index, logits[place])
