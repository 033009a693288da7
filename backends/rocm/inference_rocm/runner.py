"""The runner: one model in PyTorch, on one device."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor

from inference.engine.results import NO_SAMPLE, Results
from inference.errors import EngineError, InsufficientMemoryError
from inference.gguf.architectures import Part
from inference.gguf.rope_factors import rope_factors
from inference.gguf.weights import Weights
from inference.options import GenerateOptions
from inference.protocols import Row, TokenLogprobs
from inference.types import MemoryUse, TokenLogprob
from inference_rocm.building import ropes_of
from inference_rocm.cache import KVCache
from inference_rocm.decoder import Decoder
from inference_rocm.memory import ran_out
from inference_rocm.rotary import Rotary
from inference_rocm.sampler import Sampler
from inference_rocm.spans import Span, Spans

__all__ = ["TorchRunner"]

FIRST_LENGTH = 1024
"""Tokens that the first slot has room for, until a call wants more."""


@dataclass(slots=True)
class _Slot:
    """What a slot holds, and the sequence that is open in it."""

    length: int = 0
    """Tokens in its KV memory."""
    sampler: Sampler | None = None
    """None while the slot is closed."""
    logprobs: int = 0
    last: int = NO_SAMPLE
    """The token sampled last, not in its KV memory yet."""


class TorchRunner:
    """Implements `inference.protocols.Runner`."""

    lookahead = 0
    can_fork = True

    def __init__(
        self,
        weights: Weights,
        decoder: Decoder[Spans],
        *,
        context_length: int,
        max_slots: int,
        batch_size: int,
        threads: int,
    ) -> None:
        self.context_length = context_length
        self.max_slots = max_slots
        self.batch_size = batch_size
        self._threads = threads
        self._weights = weights
        self._decoder = decoder
        self._device = torch.device("cpu")
        self._rope_factors = rope_factors(weights, decoder.config, context_length)
        self._slots: dict[int, _Slot] = {}
        self._peak_bytes = 0
        self._make_cache(1, min(context_length, FIRST_LENGTH))

    @property
    def slots(self) -> int:
        return self._cache.slots

    @property
    def slot_length(self) -> int:
        return self._cache.length

    def resize(self, slots: int, length: int, *, wait: bool) -> None:  # noqa: ARG002 - it is always there at once
        before = self._cache
        slots, length = max(slots, before.slots), max(length, before.length)
        if (slots, length) == (before.slots, before.length):
            return
        self._make_cache(slots, length)
        self._cache.take(before, {slot: state.length for slot, state in self._slots.items()})

    def trim(self, slot: int, length: int) -> int:
        state = self._slots.get(slot)
        if state is None:
            return 0
        state.length = min(state.length, length)
        return state.length

    def fork(self, source: int, slot: int, length: int) -> int:
        origin = self._slots.get(source)
        if origin is None or origin.length < length:
            return 0
        self._cache.copy(source, slot, length)
        self._slots[slot] = _Slot(length)
        return length

    def open(self, slot: int, options: GenerateOptions, seed: int, prompt: Sequence[int]) -> None:
        state = self._slots.setdefault(slot, _Slot())
        state.sampler = Sampler(options, seed, prompt)
        state.logprobs = options.logprobs

    @torch.inference_mode()
    def step(self, rows: Sequence[Row]) -> Results:
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)  # each thread has a count of its own
        done = Results(len(rows))
        spans = Spans([self._span(row) for row in rows], self._device)
        try:
            hidden = self._decoder.hidden(self._embeddings(spans.tokens), spans, self._cache, self._rotaries)
            asking = [index for index, row in enumerate(rows) if row.asks]
            if asking:
                logits = self._decoder.logits(hidden[[spans.last_of(rows[index].slot) for index in asking]])
        except (RuntimeError, MemoryError) as error:
            what = (
                f"memory ran out in a step of {len(spans.tokens)} tokens: lower `batch_size`"
                if ran_out(error)
                else error
            )
            raise EngineError(f"PyTorch failed: {what}") from error
        for row in rows:
            self._slots[row.slot].length += 1 if row.feed is None else len(row.feed)
        if asking:
            likeliest = self._decoder.likeliest(logits)
            for place, index in enumerate(asking):
                self._answer(done, index, rows[index], logits[place], likeliest[place])
        return done

    def close(self, slot: int) -> None:
        state = self._slots.get(slot)
        if state is not None:
            state.sampler = None

    def memory(self) -> MemoryUse:
        active = self._decoder.size_bytes + self._cache.size_bytes
        return MemoryUse(active, max(active, self._peak_bytes), measured=False)

    def free(self) -> None:
        self._weights.close()
        self._slots.clear()
        del self._decoder, self._cache, self._rotaries

    def _make_cache(self, slots: int, length: int) -> None:
        decoder = self._decoder
        try:
            cache = KVCache(decoder.config, slots, length, decoder.kv_type, self._device)
            rotaries = [Rotary(rope, self._rope_factors, length, self._device) for rope in ropes_of(decoder.config)]
        except (RuntimeError, MemoryError) as error:
            wanted = f"{slots} slots of {length} tokens"
            raise InsufficientMemoryError(f"There is no KV memory for {wanted}: {error}") from error
        self._cache, self._rotaries = cache, rotaries
        self._peak_bytes = max(self._peak_bytes, decoder.size_bytes + self._cache.size_bytes)

    def _span(self, row: Row) -> Span:
        state = self._slots[row.slot]
        return Span(row.slot, state.length, (state.last,) if row.feed is None else row.feed)

    def _embeddings(self, tokens: Sequence[int]) -> Tensor:
        part: Part = self._decoder.config.embedding
        return torch.from_numpy(self._weights.decode(part.tensor, tokens))

    def _answer(self, done: Results, index: int, row: Row, logits: Tensor, likeliest: int) -> None:
        """Put what the row asks for at `index` of the results. `logits`: [vocabulary]; `likeliest`: their greatest's
        token."""
        state = self._slots[row.slot]
        assert state.sampler is not None
        if row.sample:
            state.last = likeliest if state.sampler.plain else state.sampler.sample(logits, state.length)
            if isfinite(float(logits[state.last])):
                done.tokens()[index] = state.last
                if state.logprobs:
                    done.logprobs()[index] = _with_likeliest(logits, state.last, state.logprobs)
        if row.score:
            done.scores()[index] = _scored(logits, row.score)
        if row.logits:
            done.logits()[index] = array("f", logits.numpy().tobytes())


def _scored(logits: Tensor, tokens: Sequence[int]) -> list[float]:
    """Natural log-probabilities of some tokens."""
    exact = logits.double()
    scores: list[float] = (exact[list(tokens)] - torch.logsumexp(exact, dim=0)).tolist()
    return scores


def _with_likeliest(logits: Tensor, token: int, count: int) -> TokenLogprobs:
    """Log-probability of a token, and the `count` likeliest ones with theirs."""
    top = torch.topk(logits, min(count, len(logits))).indices.tolist()
    first, *rest = _scored(logits, [token, *top])
    return TokenLogprobs(first, tuple(map(TokenLogprob, top, rest)))
