"""llama.cpp driven by hand, as its own examples do: the reference for the backend."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from inference_llama_cpp.library import start
from llama_cpp import llama_cpp as C  # noqa: N812 - short for what stands in every line


class BareLlama:
    """One sequence in one context; the whole prompt in one batch."""

    def __init__(self, path: Path, context_length: int) -> None:
        start()
        self.model = C.llama_model_load_from_file(str(path).encode(), C.llama_model_default_params())
        parameters = C.llama_context_default_params()
        parameters.n_ctx = context_length
        parameters.n_batch = parameters.n_ubatch = 512
        parameters.n_threads = parameters.n_threads_batch = 2
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
