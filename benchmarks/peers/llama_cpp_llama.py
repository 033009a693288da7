"""`llama_cpp.Llama`, as its users stream from it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar, cast

from inference.measuring import Rate, Sampling, Settings

__all__ = ["LlamaCppLlama"]

SENTENCES = 64
"""Of those to classify, as many as tell the rate."""


@dataclass(frozen=True, slots=True)
class LlamaCppLlama:
    """The high-level class of llama-cpp-python."""

    name: ClassVar[str] = "llama_cpp.Llama"
    ours: ClassVar[bool] = False
    packages: ClassVar[Sequence[str]] = ("llama-cpp-python",)

    def reason_unavailable(self) -> str | None:
        return None if importlib.util.find_spec("llama_cpp") else "llama-cpp-python is not installed."

    def load(self, model: Path, settings: Settings) -> LlamaSession:
        import llama_cpp

        return LlamaSession(llama_cpp.Llama(str(model), **_arguments(settings)))

    def load_classifier(self, model: Path, settings: Settings) -> LlamaSession:
        return self.load(model, settings)

    def load_chat(self, model: Path, settings: Settings) -> LlamaSession:
        return self.load(model, settings)

    def first_token_script(self, model: Path, settings: Settings, prompt: str) -> str:
        # type_k and type_v are left at the default, F16, where that is wanted: a script's user would.
        return (
            "from llama_cpp import Llama\n"
            f"model = Llama({str(model)!r}, **{_arguments(settings)!r})\n"
            f"chunks = model({prompt!r}, max_tokens=1, temperature=0.0, stream=True)\n"
            "print(repr(next(chunks)['choices'][0]['text']), flush=True)\n"
        )


class LlamaSession:
    """A loaded `Llama`."""

    def __init__(self, llama: Any) -> None:
        self._llama = llama
        self._scope = ""

    def encode(self, text: str) -> list[int]:
        return cast("list[int]", self._llama.tokenize(text.encode(), add_bos=True))

    def stream(self, prompt: Sequence[int], tokens: int, sampling: Sampling) -> Iterator[object]:
        self._llama.reset()  # else it goes on from the prefix that it still holds
        chunks = self._llama(
            list(prompt),
            max_tokens=tokens,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p or 1.0,
            min_p=0.0,
            seed=sampling.seed,
            stream=True,
        )
        reason = None
        for chunk in chunks:
            choice = chunk["choices"][0]
            reason = choice["finish_reason"]
            if reason is None:
                yield choice["text"]
        if reason != "length":
            raise RuntimeError(f"it stopped before {tokens} tokens ({reason}): take another prompt or seed")

    def rate(self, prompts: Sequence[str], labels: Sequence[str]) -> Rate:  # noqa: ARG002 - it scores no labels
        """One token after each of the first prompts. It goes on from the instruction, which it still holds."""
        self._llama.reset()
        some = prompts[:SENTENCES]
        began = perf_counter()
        for prompt in some:
            self._llama(prompt, max_tokens=1, temperature=0.0)
        return Rate(len(some) / (perf_counter() - began))

    def chat(self, turns: Sequence[str], tokens: int, scope: str) -> Iterator[object]:
        if scope != self._scope:
            self._llama.reset()
            self._scope = scope
        messages = [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(turns)]
        chunks = self._llama.create_chat_completion(messages, max_tokens=tokens, temperature=0.0, stream=True)
        return (chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)

    def text(self, pieces: Sequence[object]) -> str:
        return "".join(cast("Sequence[str]", pieces))

    def close(self) -> None:
        self._llama.close()


def _arguments(settings: Settings) -> dict[str, Any]:
    """Every size is named: left alone, `Llama` takes 512 tokens of context and half the cores."""
    arguments: dict[str, Any] = {
        "n_ctx": settings.context_length,
        "n_batch": settings.batch_size,
        "n_ubatch": settings.batch_size,
        "n_threads": settings.threads,
        "n_threads_batch": settings.threads,
        "n_gpu_layers": settings.gpu_layers,
        "flash_attn": settings.flash_attention,
        "verbose": False,
    }
    if settings.kv_cache_type != "f16":
        from llama_cpp import llama_cpp as library

        arguments["type_k"] = arguments["type_v"] = getattr(library, f"GGML_TYPE_{settings.kv_cache_type.upper()}")
    return arguments
