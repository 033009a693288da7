"""The runner: one model in one llama.cpp context, a sequence for each slot."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from inference.errors import EngineError
from inference.options import GenerateOptions
from inference.protocols import Row, TokenLogprobs
from inference.types import TokenLogprob
from inference_llama_cpp.batch import Batch
from inference_llama_cpp.context import ContextSettings, make_context
from inference_llama_cpp.library import bindings, last_errors
from inference_llama_cpp.sampler import SamplerChain
from inference_llama_cpp.tokenizer import LlamaTokenizer

__all__ = ["LlamaRunner"]

_NO_SAMPLE = -1


@dataclass(slots=True)
class _Slot:
    """An open slot."""

    context: Any
    chain: SamplerChain
    logprobs: int
    on_device: bool
    """Whether the chain is part of the compute graph."""
    length: int = 0
    """Tokens in its KV memory."""
    last: int = _NO_SAMPLE
    """The token sampled last, not in its KV memory yet."""


class _Done:
    """A step whose results are at hand: llama.cpp takes token ids from the host, so it cannot run ahead."""

    __slots__ = ("_logprobs", "_tokens")

    def __init__(self, tokens: list[int], logprobs: list[TokenLogprobs | None]) -> None:
        self._tokens = tokens
        self._logprobs = logprobs

    def tokens(self) -> Sequence[int]:
        return self._tokens

    def logprobs(self) -> Sequence[TokenLogprobs | None]:
        return self._logprobs


class LlamaRunner:
    """Implements `inference.protocols.Runner`. Owns the model's handle, from the call on, and its tokenizer.

    More slots take a larger context, and llama.cpp cannot move a sequence to a context of another size. So a slot that
    is open stays in the context it began in; slots opened from then on go to the newest one, and an older one is freed
    with its last sequence. Until then a step takes a pass for each context.
    """

    lookahead = 0

    def __init__(
        self, model: Any, tokenizer: LlamaTokenizer, settings: ContextSettings, max_slots: int, sample_on_device: bool
    ) -> None:
        self.max_slots = max_slots
        self.slots = 1
        self.context_length = settings.context_length
        self.batch_size = settings.batch_size
        self._model = model
        self._tokenizer = tokenizer
        self._settings = settings
        self._sample_on_device = sample_on_device
        self._vocabulary_size = tokenizer.vocabulary_size
        self._open: dict[int, _Slot] = {}
        try:
            self._contexts = [make_context(model, settings, self.slots)]
        except BaseException:
            bindings.llama_model_free(model)
            raise
        self._batch = Batch(settings.batch_size, max_slots)
        self._logits_at: dict[int, npt.NDArray[np.float32]] = {}

    def resize(self, slots: int) -> None:
        self._settings.require_memory(slots)
        self._contexts.append(make_context(self._model, self._settings, slots))
        self.slots = slots
        self._free_empty_contexts()

    def open(self, slot: int, options: GenerateOptions, seed: int, prompt: Sequence[int]) -> None:
        context = self._contexts[-1]
        chain = SamplerChain(options, seed, self._vocabulary_size, prompt, self.context_length)
        # In the graph a row has no logits left to read, so a row that wants them is sampled on the host.
        on_device = self._sample_on_device and not options.logprobs
        if on_device:
            on_device = bindings.llama_set_sampler(context, slot, chain.handle)
        self._open[slot] = _Slot(context, chain, options.logprobs, on_device)

    def step(self, rows: Sequence[Row]) -> _Done:
        tokens = [_NO_SAMPLE] * len(rows)
        logprobs: list[TokenLogprobs | None] = [None] * len(rows)
        for context in self._contexts:
            mine = [index for index, row in enumerate(rows) if self._open[row.slot].context is context]
            if not mine:
                continue
            outputs = self._decode(context, [rows[index] for index in mine])
            for index, output in zip(mine, outputs, strict=True):
                if rows[index].sample:
                    tokens[index], logprobs[index] = self._sample(self._open[rows[index].slot], output)
        return _Done(tokens, logprobs)

    def close(self, slot: int) -> None:
        state = self._open.pop(slot, None)
        if state is None:
            return
        if state.on_device:
            bindings.llama_set_sampler(state.context, slot, None)
        state.chain.free()
        bindings.llama_memory_seq_rm(bindings.llama_get_memory(state.context), slot, -1, -1)
        self._free_empty_contexts()

    def free(self) -> None:
        if not self._contexts:
            return
        for slot in list(self._open):
            self.close(slot)
        self._tokenizer.close()
        bindings.llama_free(self._contexts.pop())
        bindings.llama_model_free(self._model)

    def _free_empty_contexts(self) -> None:
        for context in self._contexts[:-1]:
            if not any(state.context is context for state in self._open.values()):
                self._contexts.remove(context)
                self._logits_at.clear()
                bindings.llama_free(context)

    def _decode(self, context: Any, rows: Sequence[Row]) -> list[int]:
        """One pass over the weights; returns the index in the batch of each row's last token."""
        batch = self._batch
        batch.clear()
        outputs = []
        for row in rows:
            state = self._open[row.slot]
            if row.feed is None:
                outputs.append(batch.add_token(row.slot, state.last, state.length))
                state.length += 1
            else:
                outputs.append(batch.add_tokens(row.slot, row.feed, state.length, output=row.sample))
                state.length += len(row.feed)
        status = bindings.llama_decode(context, batch.struct)
        if status != 0:
            words = " / ".join(last_errors()) or "it does not say why"
            raise EngineError(f"llama_decode failed with status {status}: {words}.")
        return outputs

    def _sample(self, state: _Slot, output: int) -> tuple[int, TokenLogprobs | None]:
        if state.on_device or not (state.chain.plain or state.logprobs):
            state.last = bindings.llama_sampler_sample(state.chain.handle, state.context, output)
            return state.last, None
        logits = self._logits(state.context, output)
        if state.chain.plain:  # numpy finds the likeliest token ten times faster than llama.cpp's sampler
            state.last = int(logits.argmax())
        else:
            state.last = bindings.llama_sampler_sample(state.chain.handle, state.context, output)
        if not np.isfinite(logits[state.last]):
            raise EngineError("The model computed no finite logits: its weights or its context are damaged.")
        return state.last, _logprobs(logits, state.last, state.logprobs) if state.logprobs else None

    def _logits(self, context: Any, output: int) -> npt.NDArray[np.float32]:
        """The logits of an output, shape (vocabulary,), float32: llama.cpp's own memory, valid until the next step."""
        pointer = bindings.llama_get_logits_ith(context, output)
        if not pointer:
            raise EngineError(f"llama.cpp has no logits for output {output}.")
        address = ctypes.addressof(pointer.contents)
        view = self._logits_at.get(address)
        if view is None:  # making a view costs more than the search in it
            memory = (ctypes.c_float * self._vocabulary_size).from_address(address)
            view = self._logits_at[address] = np.ctypeslib.as_array(memory)
        return view


def _logprobs(logits: npt.NDArray[np.float32], token: int, count: int) -> TokenLogprobs:
    wide = logits.astype(np.float64)
    highest = wide.max()
    wide -= highest + np.log(np.exp(wide - highest).sum())
    count = min(count, len(wide))
    top = np.argpartition(-wide, count - 1)[:count]
    top = top[np.lexsort((top, -wide[top]))]
    return TokenLogprobs(float(wide[token]), tuple(TokenLogprob(int(i), float(wide[i])) for i in top))
