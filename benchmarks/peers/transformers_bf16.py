"""`transformers` on the same GGUF file, with weights that are decoded to bfloat16 while it loads."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, cast

from inference.gguf.reader import read_header
from inference.measuring import Sampling, Settings
from inference.protocols import Tokenizer

__all__ = ["TransformersBf16", "TransformersSession"]


@dataclass(frozen=True, slots=True)
class TransformersBf16:
    """A loop of `model(...)` with its KV cache, greedy: the head is computed for the last position alone, no logits are
    processed, nothing is streamed to text. Ids and text are those of our own tokenizer, so that all are given the same.
    """

    model: Path
    """The file that it is to load: it cannot read all of them."""
    name: ClassVar[str] = "transformers bf16"
    ours: ClassVar[bool] = False
    packages: ClassVar[Sequence[str]] = ("transformers", "torch", "gguf", "accelerate")

    def reason_unavailable(self) -> str | None:
        missing = [package for package in self.packages if importlib.util.find_spec(package) is None]
        if missing:
            return f"transformers reads GGUF files with the help of {', '.join(missing)}, not installed here."
        architecture = read_header(self.model).architecture
        if _plain(architecture) not in _architectures():
            return f"transformers {version('transformers')} reads no GGUF file of the architecture {architecture!r}."
        return None

    def load(self, model: Path, settings: Settings) -> TransformersSession:
        import torch

        from inference.gguf.tokenizer import tokenizer_of

        torch.set_num_threads(settings.threads)
        return TransformersSession(_dense(model), tokenizer_of(read_header(model)))

    def load_batches(self, model: Path, settings: Settings) -> TransformersSession:
        return self.load(model, settings)


class TransformersSession:
    """A causal language model of `transformers`."""

    def __init__(self, model: Any, tokenizer: Tokenizer) -> None:
        self._model = model
        self._tokenizer = tokenizer

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text)

    def stream(self, prompt: Sequence[int], tokens: int, sampling: Sampling) -> Iterator[object]:
        if sampling.temperature:
            raise RuntimeError("it is measured greedily alone")
        return (ids[0] for ids in self.steps([prompt], tokens))

    def batch(self, prompts: Sequence[Sequence[int]], tokens: int) -> Iterator[int]:
        for ids in self.steps(prompts, tokens):
            yield from range(len(ids))

    def steps(self, prompts: Sequence[Sequence[int]], tokens: int) -> Iterator[list[int]]:
        """The likeliest next token of each prompt, `tokens` times. Shorter prompts are padded in front."""
        import torch

        longest = max(map(len, prompts))
        feed = torch.tensor([[0] * (longest - len(prompt)) + [*prompt] for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        padded = not bool(mask.all())  # without padding it needs no mask, and is faster
        kept = None
        for _ in range(tokens):
            last, kept = self._step(feed, mask if padded else None, kept)
            yield cast("list[int]", last.tolist())
            feed = last[:, None]
            mask = torch.cat([mask, torch.ones_like(feed)], dim=1)

    def text(self, pieces: Sequence[object]) -> str:
        return self._tokenizer.decode(cast("Sequence[int]", pieces))

    def close(self) -> None:
        del self._model

    def _step(self, feed: Any, mask: Any, kept: Any) -> tuple[Any, Any]:
        """The likeliest tokens behind `feed`, int64 [sequences], and the KV cache."""
        import torch

        positions = {}
        if mask is not None:
            counted = (mask.cumsum(dim=1) - 1).clamp_min(0)
            positions = {"attention_mask": mask, "position_ids": counted[:, -feed.shape[1] :]}
        with torch.inference_mode():
            output = self._model(input_ids=feed, past_key_values=kept, use_cache=True, logits_to_keep=1, **positions)
        return output.logits[:, -1].argmax(dim=1), output.past_key_values


def _dense(path: Path) -> Any:
    """The file's model in bfloat16."""
    import torch

    transformers = _offline()
    options = {"gguf_file": path.name, "dtype": torch.bfloat16}
    if hasattr(transformers, "GgufConfig"):  # versions that have it leave some architectures' weights packed
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    return transformers.AutoModelForCausalLM.from_pretrained(str(path.parent), **options).eval()


def _offline() -> Any:
    """The package; it asks no server."""
    os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"  # read when it is imported
    import transformers

    return transformers


@cache
def _architectures() -> frozenset[str]:
    """Those whose GGUF files it reads."""
    _offline()
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    return frozenset(map(_plain, GGUF_SUPPORTED_ARCHITECTURES))


def _plain(architecture: str) -> str:
    """llama.cpp and transformers write the same names with other strokes: "gpt-oss", "gpt_oss"."""
    return architecture.replace("-", "").replace("_", "")
