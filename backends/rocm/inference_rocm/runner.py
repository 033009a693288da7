"""The runner: one model in PyTorch, on one device."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor

from inference.engine.results import NO_SAMPLE, Results
from inference.errors import EngineError
from inference.gguf.architectures import Part
from inference.gguf.rope_factors import rope_factors
from inference.gguf.weights import Weights
from inference.options import GenerateOptions
from inference.protocols import Row, TokenLogprobs
from inference.types import MemoryUse, TokenLogprob
from inference_rocm.decoder import Decoder
from inference_rocm.kv_slots import KVSlots
from inference_rocm.memory import ran_out
from inference_rocm.sampler import Sampler
from inference_rocm.spans import Span, Spans

__all__ = ["TorchRunner"]


@dataclass(slots=True)
class _Slot:
    """The sequence that is open in a slot."""

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
        self._kv = KVSlots(decoder, rope_factors(weights, decoder.config, context_length), context_length, self._device)
        self._slots: dict[int, _Slot] = {}

    @property
    def slots(self) -> int:
        return self._kv.count

    @property
    def slot_length(self) -> int:
        return self._kv.length

    def resize(self, slots: int, length: int, *, wait: bool) -> None:  # noqa: ARG002 - it is always there at once
        self._kv.resize(slots, length)

    def trim(self, slot: int, length: int) -> int:
        return self._kv.trim(slot, length)

    def fork(self, source: int, slot: int, length: int) -> int:
        return self._kv.fork(source, slot, length)

    def open(self, slot: int, options: GenerateOptions, seed: int, prompt: Sequence[int]) -> None:
        state = self._slots.setdefault(slot, _Slot())
        self._kv.lengths.setdefault(slot, 0)
        state.sampler = Sampler(options, seed, prompt)
        state.logprobs = options.logprobs

    @torch.inference_mode()
    def step(self, rows: Sequence[Row]) -> Results:
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)  # each thread has a count of its own
        done = Results(len(rows))
        spans = Spans([self._span(row) for row in rows], self._device)
        try:
            hidden = self._decoder.hidden(self._embeddings(spans.tokens), spans, self._kv.cache, self._kv.rotaries)
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
            self._kv.lengths[row.slot] += 1 if row.feed is None else len(row.feed)
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
        weights, kv = self._decoder.size_bytes, self._kv
        return MemoryUse(weights + kv.cache.size_bytes, weights + kv.peak_bytes, measured=False)

    def free(self) -> None:
        self._weights.close()
        self._slots.clear()
        del self._decoder, self._kv

    def _span(self, row: Row) -> Span:
        state = self._slots[row.slot]
        return Span(row.slot, self._kv.lengths[row.slot], (state.last,) if row.feed is None else row.feed)

    def _embeddings(self, tokens: Sequence[int]) -> Tensor:
        part: Part = self._decoder.config.embedding
        return torch.from_numpy(self._weights.decode(part.tensor, tokens))

    def _answer(self, done: Results, index: int, row: Row, logits: Tensor, likeliest: int) -> None:
        """Put what the row asks for at `index` of the results. `logits`: [vocabulary]; `likeliest`: their greatest's
        token."""
        state = self._slots[row.slot]
        assert state.sampler is not None
        if row.sample:
            state.last = likeliest if state.sampler.plain else state.sampler.sample(logits, self._kv.lengths[row.slot])
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
