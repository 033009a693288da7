"""llama.cpp driven by hand, as its own examples do: the reference for the backend."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from inference_llama_cpp.library import start
from llama_cpp import llama_cpp as C  # noqa: N812 - short for what stands in every line

BATCH = 512


class BareLlama:
    """One sequence in one context; the whole prompt in one batch."""

    def __init__(self, path: Path, context_length: int, *, exact: bool = False) -> None:
        """`exact`: keys and values are kept as F32, and attention is computed step by step in F32."""
        start()
        self.model = C.llama_model_load_from_file(str(path).encode(), C.llama_model_default_params())
        assert self.model, f"llama.cpp refuses {path}"
        parameters = C.llama_context_default_params()
        parameters.n_ctx = context_length
        parameters.n_batch = parameters.n_ubatch = BATCH
        parameters.n_threads = parameters.n_threads_batch = 2
        if exact:
            parameters.type_k = parameters.type_v = C.GGML_TYPE_F32
            parameters.flash_attn_type = C.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.context = C.llama_init_from_model(self.model, parameters)
        self.vocabulary_size = C.llama_vocab_n_tokens(C.llama_model_get_vocab(self.model))

    def continuation(self, prompt: Sequence[int], count: int, samplers: Sequence[Any] = ()) -> list[int]:
        """`count` tokens after `prompt`, by a chain of `samplers` (greedy without any)."""
        chain = C.llama_sampler_chain_init(C.llama_sampler_chain_default_params())
        for sampler in samplers or [C.llama_sampler_init_greedy()]:
            C.llama_sampler_chain_add(chain, sampler)
        for token in prompt:
            C.llama_sampler_accept(chain, token)
        C.llama_memory_clear(C.llama_get_memory(self.context), True)
        feed, tokens = list(prompt), []
        for _ in range(count):
            self._decode(feed)
            tokens.append(C.llama_sampler_sample(chain, self.context, -1))
            feed = [tokens[-1]]
        C.llama_sampler_free(chain)
        return tokens

    def logprobs(self, prompt: Sequence[int]) -> Any:
        """Log-probabilities after `prompt`, shape (vocabulary,), float64."""
        C.llama_memory_clear(C.llama_get_memory(self.context), True)
        self._decode(prompt)
        pointer = C.llama_get_logits_ith(self.context, -1)
        logits = np.ctypeslib.as_array(pointer, (self.vocabulary_size,)).astype(np.float64)
        return logits - np.logaddexp.reduce(logits)

    def logits(self, tokens: Sequence[int], positions: Sequence[int]) -> Any:
        """The logits at those `positions` of `tokens`, shape (positions, vocabulary), float32."""
        C.llama_memory_clear(C.llama_get_memory(self.context), True)
        rows = {}
        for first in range(0, len(tokens), BATCH):
            part = range(first, min(first + BATCH, len(tokens)))
            self._decode_marked(tokens, part, positions)
            for index, position in enumerate(part):
                if position in positions:
                    pointer = C.llama_get_logits_ith(self.context, index)
                    rows[position] = np.ctypeslib.as_array(pointer, (self.vocabulary_size,)).copy()
        return np.stack([rows[position] for position in positions])

    def greedy(self, prompt: Sequence[int], count: int) -> tuple[list[int], Any]:
        """The likeliest `count` tokens after `prompt`, and the logits that each was chosen by: float32, shape (count,
        vocabulary)."""
        C.llama_memory_clear(C.llama_get_memory(self.context), True)
        feed, tokens, rows = list(prompt), [], []
        for _ in range(count):
            self._decode(feed)
            pointer = C.llama_get_logits_ith(self.context, -1)
            rows.append(np.ctypeslib.as_array(pointer, (self.vocabulary_size,)).copy())
            tokens.append(int(rows[-1].argmax()))
            feed = [tokens[-1]]
        return tokens, np.stack(rows)

    def _decode_marked(self, tokens: Sequence[int], part: range, positions: Sequence[int]) -> None:
        batch = C.llama_batch_init(len(part), 0, 1)
        batch.n_tokens = len(part)
        for index, position in enumerate(part):
            batch.token[index], batch.pos[index], batch.n_seq_id[index] = tokens[position], position, 1
            batch.seq_id[index][0] = 0
            batch.logits[index] = position in positions
        assert C.llama_decode(self.context, batch) == 0
        C.llama_batch_free(batch)

    def _decode(self, tokens: Sequence[int]) -> None:
        array = (C.llama_token * len(tokens))(*tokens)
        assert C.llama_decode(self.context, C.llama_batch_get_one(array, len(tokens))) == 0

    def free(self) -> None:
        C.llama_free(self.context)
        C.llama_model_free(self.model)


@contextmanager
def bare_llama(path: Path, context_length: int = 512) -> Iterator[BareLlama]:
    llama = BareLlama(path, context_length)
    try:
        yield llama
    finally:
        llama.free()
