"""mlx-lm's own loops, `generate_step` and `BatchGenerator`, on the very weights of the backend `metal`."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

from inference.gguf.reader import read_header
from inference.measuring import Sampling, Settings
from inference.protocols import Tokenizer

__all__ = ["MLXLm", "MLXLmSession"]


@dataclass(frozen=True, slots=True)
class MLXLm:
    """A Python program that mlx-lm's users would write: one sequence by `generate_step`, several by `BatchGenerator`.
    The weights come from the GGUF file as our backend packs them, since mlx-lm reads few files of that kind."""

    device: str
    """ "metal" or "cpu"."""
    name: ClassVar[str] = "mlx-lm"
    ours: ClassVar[bool] = False
    packages: ClassVar[Sequence[str]] = ("mlx", "mlx-lm")

    def reason_unavailable(self) -> str | None:
        return None if importlib.util.find_spec("mlx_lm") else "mlx-lm is not installed here."

    def load(self, model: Path, settings: Settings) -> MLXLmSession:
        return MLXLmSession(model, settings, self.device)

    def load_batches(self, model: Path, settings: Settings) -> MLXLmSession:
        return self.load(model, settings)


class MLXLmSession:
    """One of mlx-lm's models."""

    def __init__(self, path: Path, settings: Settings, device: str) -> None:
        import mlx.core as mx
        from inference_mlx.building import build_decoder
        from inference_mlx.kquant import kept_formats
        from inference_mlx.packing import Packer
        from inference_mlx.precision import precision_of

        from inference.gguf.architectures import config_of
        from inference.gguf.tokenizer import tokenizer_of
        from inference.gguf.weights import Weights

        mx.set_default_device(mx.gpu if device == "metal" else mx.cpu)
        header = read_header(path)
        self._batch_size = settings.batch_size
        self._tokenizer: Tokenizer = tokenizer_of(header)
        with Weights(header) as weights:
            packer = Packer(getattr(mx, precision_of(header, device)), kept=kept_formats(device))
            decoder = build_decoder(weights, config_of(header), packer, context_length=settings.context_length)
        self._model: Any = decoder.model

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text)

    def stream(self, prompt: Sequence[int], tokens: int, sampling: Sampling) -> Iterator[object]:
        import mlx.core as mx
        from mlx_lm.generate import generate_step
        from mlx_lm.sample_utils import make_sampler

        mx.random.seed(sampling.seed)
        sampler = make_sampler(temp=sampling.temperature, top_k=sampling.top_k, top_p=sampling.top_p)
        steps = generate_step(
            mx.array(list(prompt)),
            self._model,
            max_tokens=tokens,
            sampler=sampler,
            prefill_step_size=self._batch_size,
        )
        return (token for token, _ in steps)

    def batch(self, prompts: Sequence[Sequence[int]], tokens: int) -> Iterator[int]:
        from mlx_lm.generate import BatchGenerator

        generator = BatchGenerator(self._model, max_tokens=tokens, prefill_step_size=self._batch_size)
        generator.insert([list(prompt) for prompt in prompts])
        while responses := generator.next_generated():
            yield from (response.uid for response in responses)
        generator.close()

    def text(self, pieces: Sequence[object]) -> str:
        return self._tokenizer.decode(cast("Sequence[int]", pieces))

    def close(self) -> None:
        import mlx.core as mx

        del self._model
        mx.clear_cache()
