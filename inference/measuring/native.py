"""Our own engines as competitors, through the public interface alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar, Self, cast

from inference.choosing import Candidate
from inference.errors import InferenceError
from inference.loading import load_model
from inference.measuring.competitor import GREEDY, Rate, Sampling, Settings
from inference.options import LoadOptions
from inference.protocols import BatchModel, TextModel
from inference.registry import get_backend
from inference.speeds import packages_of
from inference.stream import TokenStream
from inference.types import Message, Token

__all__ = ["Native", "NativeSession", "load_options"]


@dataclass(frozen=True, slots=True)
class Native:
    """`inference.load_model(...)` on one backend."""

    backend: str
    ours: ClassVar[bool] = True
    module: ClassVar[str] = "inference"
    packages: Sequence[str] = field(default=("native-inference",))
    device: str | None = None
    """The backend's best by default."""

    @classmethod
    def of(cls, candidate: Candidate) -> Self:
        """The engine that would be chosen, on its device."""
        return cls(candidate.backend.name, packages_of(candidate.backend), candidate.device.device)

    @property
    def name(self) -> str:
        return f"inference {self.backend}"

    def reason_unavailable(self) -> str | None:
        try:
            entries = get_backend(self.backend).probe()
        except InferenceError as error:
            return str(error)
        entries = [entry for entry in entries if self.device in (None, entry.device)]
        if any(entry.available for entry in entries):
            return None
        return entries[0].reason if entries else "it found no device."

    def load(self, model: Path, settings: Settings) -> NativeSession:
        return NativeSession(load_model(model, options=LoadOptions(**self._keywords(settings))))

    def load_batches(self, model: Path, settings: Settings) -> NativeSession:
        return self.load(model, settings)

    def load_server(self, model: Path, settings: Settings) -> NativeSession:
        return self.load(model, settings)

    def load_classifier(self, model: Path, settings: Settings) -> NativeSession:
        return self.load(model, settings)

    def load_chat(self, model: Path, settings: Settings) -> NativeSession:
        return self.load(model, settings)

    def first_token_script(self, model: Path, settings: Settings, prompt: str) -> str:
        keywords = self._keywords(settings)
        return (
            "from inference import load_model\n"
            f"with load_model({str(model)!r}, **{keywords!r}) as model:\n"
            f"    print(repr(next(model.generate({prompt!r}, max_tokens=1)).text), flush=True)\n"
        )

    def _keywords(self, settings: Settings) -> dict[str, Any]:
        return load_keywords(self.backend, settings) | ({"device": self.device} if self.device else {})


def load_keywords(backend: str, settings: Settings) -> dict[str, Any]:
    """What of `settings` the backend takes: what it has no option for, it does in its one way."""
    known = get_backend(backend).load_options
    return {name: value for name, value in asdict(settings).items() if name in known} | {"backend": backend}


def load_options(backend: str, settings: Settings) -> LoadOptions:
    """The options that `load_keywords` gives."""
    return LoadOptions(**load_keywords(backend, settings))


class NativeSession:
    """A model that `load_model` returned. Each call has a cache scope of its own, so that it computes all it needs."""

    def __init__(self, model: TextModel) -> None:
        self._model = model
        self._calls = count()

    def encode(self, text: str) -> list[int]:
        return self._model.tokenizer.encode(text)

    def stream(self, prompt: Sequence[int], tokens: int, sampling: Sampling) -> TokenStream:
        return self._model.generate(
            prompt,
            max_tokens=tokens,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            seed=sampling.seed,
            ignore_eos=True,
            cache_scope=self._scope(),
        )

    def start(self, prompt: Sequence[int], tokens: int) -> TokenStream:
        return self.stream(prompt, tokens, GREEDY)

    def batch(self, prompts: Sequence[Sequence[int]], tokens: int) -> Iterator[int]:
        pieces = self._batches.batch_generate(prompts, max_tokens=tokens, ignore_eos=True, cache_scope=self._scope())
        for index, token in pieces:
            if token.finish is not None and token.finish.error is not None:
                raise token.finish.error
            yield index

    def rate(self, prompts: Sequence[str], labels: Sequence[str]) -> Rate:
        began = perf_counter()
        answers = list(self._batches.classify(prompts, labels=labels, cache_scope=self._scope()))
        seconds = perf_counter() - began
        for answer in answers:
            if answer.error is not None:
                raise answer.error
        if len(answers) != len(prompts):
            raise RuntimeError(f"{len(prompts)} prompts were classified, and {len(answers)} answers came")
        return Rate(len(answers) / seconds)

    def chat(self, turns: Sequence[str], tokens: int, scope: str) -> Iterator[object]:
        messages = [Message(("user", "assistant")[number % 2], text) for number, text in enumerate(turns)]
        return (token.text for token in self._model.chat(messages, max_tokens=tokens, cache_scope=scope))

    def text(self, pieces: Sequence[object]) -> str:
        return "".join(cast("Token", piece).text for piece in pieces)

    def close(self) -> None:
        self._model.close()

    @property
    def _batches(self) -> BatchModel:
        if not isinstance(self._model, BatchModel):
            raise TypeError(f"{type(self._model).__name__} takes one prompt at a time")
        return self._model

    def _scope(self) -> str:
        return f"measured {next(self._calls)}"
