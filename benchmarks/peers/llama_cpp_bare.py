"""The least that Python can do with llama.cpp: a loop of `llama_decode` and `llama_sampler_sample`, no text, no thread.

It shows what the engine around the same two calls costs.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, cast

from inference.measuring import Sampling, Settings

__all__ = ["BareSession", "LlamaCppBare", "reason_unavailable", "start"]


@dataclass(frozen=True, slots=True)
class LlamaCppBare:
    """The C API by ctypes."""

    name: ClassVar[str] = "llama_decode loop"
    ours: ClassVar[bool] = False
    packages: ClassVar[Sequence[str]] = ("llama-cpp-python",)

    def reason_unavailable(self) -> str | None:
        return reason_unavailable()

    def load(self, model: Path, settings: Settings) -> BareSession:
        return BareSession(model, settings)


class BareSession:
    """A model and a context."""

    def __init__(self, path: Path, settings: Settings) -> None:
        from llama_cpp import llama_cpp as library

        self._library = library
        start()
        weights = library.llama_model_default_params()
        weights.n_gpu_layers = 999 if settings.gpu_layers < 0 else settings.gpu_layers
        self._model = library.llama_model_load_from_file(str(path).encode(), weights)
        if not self._model:
            raise RuntimeError(f"llama.cpp cannot load {path}")
        self._vocabulary = library.llama_model_get_vocab(self._model)
        self._context = library.llama_init_from_model(self._model, _context_parameters(library, settings))
        if not self._context:
            raise RuntimeError(f"llama.cpp cannot make a context of {settings.context_length} tokens")

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        data = text.encode()
        ids = (self._library.llama_token * (len(data) + 2))()
        count = self._library.llama_tokenize(self._vocabulary, data, len(data), ids, len(ids), True, special)
        return list(ids[:count])

    def stream(self, prompt: Sequence[int], tokens: int, sampling: Sampling) -> Iterator[object]:
        library, context = self._library, self._context
        library.llama_memory_clear(library.llama_get_memory(context), False)
        chain = self._chain(sampling)
        try:
            feed = (library.llama_token * len(prompt))(*prompt)
            count = len(prompt)
            one = (library.llama_token * 1)()
            for _ in range(tokens):
                if library.llama_decode(context, library.llama_batch_get_one(feed, count)) != 0:
                    raise RuntimeError("llama_decode failed")
                one[0] = library.llama_sampler_sample(chain, context, -1)
                yield one[0]
                feed, count = one, 1
        finally:
            library.llama_sampler_free(chain)

    def compute(self, tokens: Sequence[int], outputs: int) -> None:
        """One pass over `tokens` from an empty context, with logits for the last `outputs` of them."""
        library, context = self._library, self._context
        library.llama_memory_clear(library.llama_get_memory(context), False)
        batch = library.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for place, token in enumerate(tokens):
            batch.token[place], batch.pos[place] = token, place
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
            batch.logits[place] = place >= len(tokens) - outputs
        try:
            if library.llama_decode(context, batch) != 0:
                raise RuntimeError("llama_decode failed")
            library.llama_synchronize(context)
        finally:
            library.llama_batch_free(batch)

    def text(self, pieces: Sequence[object]) -> str:
        return b"".join(self._piece(cast("int", token)) for token in pieces).decode("utf-8", "replace")

    def close(self) -> None:
        self._library.llama_free(self._context)
        self._library.llama_model_free(self._model)

    def _piece(self, token: int) -> bytes:
        buffer = ctypes.create_string_buffer(256)
        size = self._library.llama_token_to_piece(self._vocabulary, token, buffer, len(buffer), 0, False)
        return buffer.raw[: max(size, 0)]

    def _chain(self, sampling: Sampling) -> Any:
        library = self._library
        chain = library.llama_sampler_chain_init(library.llama_sampler_chain_default_params())
        if sampling.temperature == 0:
            library.llama_sampler_chain_add(chain, library.llama_sampler_init_greedy())
            return chain
        if sampling.top_k:
            library.llama_sampler_chain_add(chain, library.llama_sampler_init_top_k(sampling.top_k))
        if sampling.top_p:
            library.llama_sampler_chain_add(chain, library.llama_sampler_init_top_p(sampling.top_p, 1))
        library.llama_sampler_chain_add(chain, library.llama_sampler_init_temp(sampling.temperature))
        library.llama_sampler_chain_add(chain, library.llama_sampler_init_dist(sampling.seed))
        return chain


def reason_unavailable() -> str | None:
    """Why the bindings cannot be used here, or None if they can."""
    return None if importlib.util.find_spec("llama_cpp") else "llama-cpp-python is not installed."


@cache
def start() -> Any:
    """Initialise llama.cpp and drop its log. The callback is returned to be cached: llama.cpp calls it ever after."""
    from llama_cpp import llama_cpp as library

    silence = library.llama_log_callback(lambda *_: None)
    library.llama_log_set(silence, ctypes.c_void_p())
    library.llama_backend_init()
    return silence


def _context_parameters(library: Any, settings: Settings) -> Any:
    parameters = library.llama_context_default_params()
    parameters.n_seq_max = settings.parallel
    parameters.n_ctx = settings.context_length * settings.parallel
    parameters.kv_unified = False  # a KV stream for each sequence: a third faster than one for all
    parameters.n_batch = parameters.n_ubatch = settings.batch_size
    parameters.n_threads = parameters.n_threads_batch = settings.threads
    parameters.type_k = parameters.type_v = getattr(library, f"GGML_TYPE_{settings.kv_cache_type.upper()}")
    parameters.flash_attn_type = int(settings.flash_attention)
    return parameters
