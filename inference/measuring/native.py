"""Our own engines as competitors, through the public interface alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import ClassVar, cast

from inference.errors import InferenceError
from inference.loading import load_model
from inference.measuring.competitor import Sampling, Settings
from inference.options import LoadOptions
from inference.protocols import TextModel
from inference.registry import get_backend
from inference.types import Token

__all__ = ["Native", "NativeSession", "load_options"]


@dataclass(frozen=True, slots=True)
class Native:
    """`inference.load_model(...)` on one backend."""

    backend: str
    ours: ClassVar[bool] = True
    module: ClassVar[str] = "inference"
    packages: Sequence[str] = field(default=("native-inference",))

    @property
    def name(self) -> str:
        return f"inference {self.backend}"

    def reason_unavailable(self) -> str | None:
        try:
            entries = get_backend(self.backend).probe()
        except InferenceError as error:
            return str(error)
        if any(entry.available for entry in entries):
            return None
        return entries[0].reason if entries else "it found no device."

    def load(self, model: Path, settings: Settings) -> NativeSession:
        return NativeSession(load_model(model, options=load_options(self.backend, settings)))

    def first_token_script(self, model: Path, settings: Settings, prompt: str) -> str:
        keywords = {**asdict(settings), "backend": self.backend, "parallel": 1}
        return (
            "from inference import load_model\n"
            f"with load_model({str(model)!r}, **{keywords!r}) as model:\n"
            f"    print(repr(next(model.generate({prompt!r}, max_tokens=1)).text), flush=True)\n"
        )


def load_options(backend: str, settings: Settings) -> LoadOptions:
    """The load options that `settings` mean."""
    return LoadOptions(backend=backend, parallel=1, **asdict(settings))


class NativeSession:
    """A model that `load_model` returned."""

    def __init__(self, model: TextModel) -> None:
        self._model = model

    def encode(self, text: str) -> list[int]:
        return self._model.tokenizer.encode(text)

    def stream(self, prompt: Sequence[int], tokens: int, sampling: Sampling) -> Iterator[object]:
        return self._model.generate(
            prompt,
            max_tokens=tokens,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            seed=sampling.seed,
            ignore_eos=True,
        )

    def text(self, pieces: Sequence[object]) -> str:
        return "".join(cast("Token", piece).text for piece in pieces)

    def close(self) -> None:
        self._model.close()
