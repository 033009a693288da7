"""A model that takes many prompts at once and says of each what can be known beforehand."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Self

from fakes import FakeTokenizer, fake_info

from inference.errors import EmptyPromptError, EngineError, InferenceError
from inference.options import GenerateOptions, LoadOptions
from inference.types import Availability, Classification, Finish, GenerateStats, ModelInfo, Support, Token

SLOTS = 4


def answer(prompt: str) -> str:
    """What the fake says to a prompt: some words, more or fewer of them."""
    return "".join(f" {word}" for word in [prompt[::-1], *"abcdefgh"[: len(prompt) % 8]])


def failure(prompt: str, number: int) -> InferenceError | None:
    """Why the fake fails with that prompt, if it does."""
    if not prompt:
        return EmptyPromptError(f"Prompt {number}: The prompt is empty.")
    return EngineError("This fake device failed; lower `context_length`.") if "fail" in prompt else None


class FakeTextModel:
    """Takes one prompt at a time, and fails with it. `seconds` is how long a turn takes."""

    model_type = "fake"
    tokenizer = FakeTokenizer()

    def __init__(self, info: ModelInfo, seconds: float = 0.0) -> None:
        self._info = info
        self._seconds = seconds
        self.asked: list[tuple[str, GenerateOptions | None]] = []
        self.closed = False

    def info(self) -> ModelInfo:
        return self._info

    def generate(self, *args: Any, **keywords: Any) -> Any:
        raise NotImplementedError

    chat = generate

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class FakeBatchModel(FakeTextModel):
    """Four slots, each a word further with each turn."""

    def batch_generate(
        self, prompts: Iterable[str | Sequence[int]], *, options: GenerateOptions | None = None, **keywords: Any
    ) -> Iterator[tuple[int, Token]]:
        waiting = enumerate(map(self._text, prompts))
        running: dict[int, Iterator[Token]] = {}
        while True:
            for number, prompt in islice(waiting, SLOTS - len(running)):
                self.asked.append((prompt, options))
                running[number] = self._tokens(prompt, number)
            if not running:
                return
            time.sleep(self._seconds)
            for number, tokens in list(running.items()):
                token = next(tokens)
                if token.finish is not None:
                    del running[number]
                yield number, token

    def classify(
        self,
        prompts: Iterable[str | Sequence[int]],
        *,
        labels: Sequence[str] | None = None,
        return_logits: bool = False,
        cache_scope: str | None = None,
    ) -> Iterator[Classification]:
        waiting = map(self._text, prompts)
        while ahead := list(islice(waiting, 3)):
            time.sleep(self._seconds)
            for prompt in ahead:
                self.asked.append((prompt, None))
                yield self._classified(prompt, len(self.asked) - 1, labels)

    def _text(self, prompt: str | Sequence[int]) -> str:
        return prompt if isinstance(prompt, str) else self.tokenizer.decode(prompt)

    def _tokens(self, prompt: str, number: int) -> Iterator[Token]:
        error = failure(prompt, number)
        if error is not None:
            yield Token(-1, "", finish=Finish("error", GenerateStats(), error))
            return
        words = [f" {word}" for word in answer(prompt).split(" ")[1:]]
        yield from (Token(len(word), word) for word in words)
        stats = GenerateStats(prompt_tokens=len(prompt), cached_tokens=1, generated_tokens=len(words) + 1)
        yield Token(255, "", finish=Finish("stop", stats))

    def _classified(self, prompt: str, number: int, labels: Sequence[str] | None) -> Classification:
        """A label is the likelier the more of its letters are in the prompt."""
        error = failure(prompt, number)
        if error is not None:
            return Classification(error=error)
        if labels is None:
            return Classification(token=Token(10, prompt[-1] + "\n", logprob=math.log(0.25)))
        weights = {label: 1.0 + sum(letter in prompt for letter in label) for label in labels}
        shares = {label: weight / sum(weights.values()) for label, weight in weights.items()}
        logprobs = {label: math.log(share) for label, share in shares.items()}
        return Classification(label=max(shares, key=shares.__getitem__), probabilities=shares, logprobs=logprobs)


class FakeBatchBackend:
    """Loads fakes, and knows which."""

    load_options = frozenset({"context_length", "kv_cache_type", "parallel", "threads"})

    def __init__(self, name: str, seconds: float = 0.0) -> None:
        self.name = name
        self.seconds = seconds
        self.kind: type[FakeTextModel] = FakeBatchModel
        self.models: list[Any] = []
        self.loaded: list[LoadOptions] = []

    def probe(self) -> list[Availability]:
        return [Availability("cpu", f"{self.name} device", True, True, "it is a fake.", None)]

    def supports(self, header: object, options: LoadOptions) -> Support:
        return Support(True, "it runs anything.")

    def load_model(self, path: Path, options: LoadOptions) -> FakeTextModel:
        info = fake_info(path=path, backend=self.name, chat_template=options.chat_template)
        model = self.kind(info, self.seconds)
        self.models.append(model)
        self.loaded.append(options)
        return model
