"""Reading a tokenizer from a file's metadata, and encoding with it, beside llama.cpp's own."""

from __future__ import annotations

import random
import zlib
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from string import ascii_lowercase
from time import perf_counter
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, runtime_checkable

from inference.measuring import Bar, Competitor, Repeat, Sample

__all__ = ["Encode", "GGUFVocabulary", "LlamaCppVocabulary", "TokenizerBuild"]

REPOSITORY = Path(__file__).parent.parent
SHORT = 200
"""Characters of a short prompt."""

Encoder: TypeAlias = Callable[[str], Sequence[int]]


@runtime_checkable
class Encodes(Protocol):
    """A competitor that has a tokenizer."""

    def tokenizer(self, path: Path) -> tuple[Encoder, Callable[[], None]]:
        """What encodes a text with the vocabulary of the file, which has answered nothing yet, and what frees it."""


@dataclass(frozen=True, slots=True)
class GGUFVocabulary:
    """`inference.gguf.tokenizer`."""

    name: ClassVar[str] = "inference.gguf.tokenizer"
    ours: ClassVar[bool] = True
    packages: ClassVar[tuple[str, ...]] = ("native-inference", "tokenizers")

    def reason_unavailable(self) -> str | None:
        return None if find_spec("tokenizers") else "tokenizers is not installed."

    def tokenizer(self, path: Path) -> tuple[Encoder, Callable[[], None]]:
        from inference.gguf.reader import read_header
        from inference.gguf.tokenizer import tokenizer_of

        return tokenizer_of(read_header(path)).encode, lambda: None


@dataclass(frozen=True, slots=True)
class LlamaCppVocabulary:
    """`llama_tokenize`, of a model without its weights."""

    name: ClassVar[str] = "llama_tokenize"
    ours: ClassVar[bool] = False
    packages: ClassVar[tuple[str, ...]] = ("llama-cpp-python",)

    def reason_unavailable(self) -> str | None:
        return None if find_spec("llama_cpp") else "llama_cpp is not installed."

    def tokenizer(self, path: Path) -> tuple[Encoder, Callable[[], None]]:
        from inference_llama_cpp.library import bindings, start

        start()
        options = bindings.llama_model_default_params()
        options.vocab_only = True
        model = bindings.llama_model_load_from_file(str(path).encode(), options)
        vocabulary = bindings.llama_model_get_vocab(model)

        def encode(text: str) -> Sequence[int]:
            data = text.encode()
            tokens = (bindings.llama_token * (len(data) + 8))()
            count = bindings.llama_tokenize(vocabulary, data, len(data), tokens, len(tokens), True, False)
            return tokens[:count]

        return encode, lambda: bindings.llama_model_free(model)


@dataclass(frozen=True, slots=True)
class TokenizerBuild:
    """Seconds from opening the file to a tokenizer that has encoded its first word."""

    model: Path
    bars: Mapping[str, Bar] = field(default_factory=dict)
    name: ClassVar[str] = "tokenizer, build"
    unit: ClassVar[str] = "s"
    isolated: ClassVar[bool] = False

    def facts(self) -> Mapping[str, Any]:
        return {}

    def reason_unsuited(self, competitor: Competitor) -> str | None:
        return None if isinstance(competitor, Encodes) else "it has no tokenizer of its own"

    @contextmanager
    def prepared(self, competitor: Competitor) -> Iterator[Repeat]:
        assert isinstance(competitor, Encodes)

        def repeat(_: int) -> Sample:
            began = perf_counter()
            encode, free = competitor.tokenizer(self.model)
            work = str(list(encode("Hello")))
            seconds = perf_counter() - began
            free()
            return Sample(seconds, work)

        yield repeat


@dataclass(frozen=True, slots=True)
class Encode:
    """MB (10^6 bytes) of text that one thread encodes in a second, with a new tokenizer for each repeat: what Python's
    help says about the language, the code of this repository, or words of random letters, of which hardly one comes
    twice; in one call or in short prompts."""

    model: Path
    text: Literal["English", "code", "random words"]
    short: bool = False
    bars: Mapping[str, Bar] = field(default_factory=dict)
    unit: ClassVar[str] = "MB/s"
    isolated: ClassVar[bool] = False

    @property
    def name(self) -> str:
        return f"tokenizer, {'short' if self.short else 'long'} {self.text}"

    def facts(self) -> Mapping[str, Any]:
        return {"bytes": len(self._whole().encode()), "characters in a call": SHORT if self.short else None}

    def reason_unsuited(self, competitor: Competitor) -> str | None:
        return None if isinstance(competitor, Encodes) else "it has no tokenizer of its own"

    @contextmanager
    def prepared(self, competitor: Competitor) -> Iterator[Repeat]:
        assert isinstance(competitor, Encodes)
        whole = self._whole()
        size = len(whole.encode())
        texts = [whole[start : start + SHORT] for start in range(0, len(whole), SHORT)] if self.short else [whole]

        def repeat(_: int) -> Sample:
            encode, free = competitor.tokenizer(self.model)
            began = perf_counter()
            ids = [encode(text) for text in texts]
            seconds = perf_counter() - began
            free()
            work = zlib.crc32(array("i", [token for some in ids for token in some]))
            return Sample(size / seconds / 1e6, f"{sum(map(len, ids))} tokens with checksum {work}")

        yield repeat

    def _whole(self) -> str:
        if self.text == "English":
            from pydoc_data.topics import topics

            return "\n".join(topics.values())
        if self.text == "random words":
            chance = random.Random(1)
            return " ".join("".join(chance.choices(ascii_lowercase, k=chance.randint(2, 12))) for _ in range(60_000))
        return "\n".join(path.read_text("utf-8") for path in sorted((REPOSITORY / "inference").rglob("*.py")))
