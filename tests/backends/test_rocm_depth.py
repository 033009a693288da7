"""The same text at depth: the GPU's decoder after 6,000 and 12,000 tokens, on Triton's interpreter, beside the numpy
decoder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conformance.cases import LONG_CASES
from conformance.decoder import Decoder as PlainDecoder
from conformance.files import write

from inference.gguf.half_types import half_type
from inference.gguf.reader import read_header

torch = pytest.importorskip("torch")
pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("Triton compiles for the GPU here", allow_module_level=True)

from gpu_sequences import GPUSequences  # noqa: E402 - after torch and triton are known to be there
from inference_rocm.gpu import span_attention  # noqa: E402
from inference_rocm.gpu.attention import Heads  # noqa: E402
from inference_rocm.gpu.device import Device  # noqa: E402
from inference_rocm.gpu.operations import MANY, TritonOperations  # noqa: E402
from inference_rocm.gpu.places import Places  # noqa: E402
from inference_rocm.operations import HeadNorms, Norm  # noqa: E402
from inference_rocm.plain import PlainOperations, gated  # noqa: E402
from inference_rocm.rotary import Rotary  # noqa: E402
from inference_rocm.spans import Span, Spans  # noqa: E402
from torch import Tensor  # noqa: E402

from inference.gguf.architectures import Activation  # noqa: E402

DEPTHS = (6_000, 12_000)
LENGTH = DEPTHS[-1] + 32
CHUNK = 2_048
TAIL, SINGLES = 24, 3
"""At each depth: tokens of a last piece of the prompt, and then single ones."""
VOCABULARY = 64
"""Different tokens of the text: a row of the embeddings takes the interpreter a millisecond."""
FORMATS = ("Q8_0", "Q4_0", "Q5_1", "F16", "IQ4_NL")
CASES = {
    "llama": {"heads": 3},  # llama3's scaling; three heads that share their keys are a matrix, two go one by one
    "gemma3": {},  # windows, with a rope of their own
    "phi3": {},  # longrope
    "gpt-oss": {"optional": True},  # yarn, windows, sinks, experts
}
EXACT = 1e-5
"""Largest difference of logits by their range: float32 sums in another order."""
ROUNDED = {"float16": 5e-3, "bfloat16": 5e-2}


class FastRows(TritonOperations):
    """What a row of activations goes through by itself takes the interpreter milliseconds. In the prompt's long chunks
    PyTorch computes it (test_rocm_elements.py says that it is the same); in short pieces the kernels do, and matrices
    and attention are always theirs."""

    def normed(self, stream: Tensor, norm: Norm | None) -> Tensor:
        return PlainOperations(self.kv_type).normed(stream, norm) if self._long(stream) else super().normed(stream, norm)

    def add(self, stream: Tensor, rows: Tensor, norm: Norm | None, scale: float) -> None:
        add = PlainOperations(self.kv_type).add if self._long(rows) else super().add
        add(stream, rows, norm, scale)

    def place(
        self,
        together: Tensor,
        keys: Tensor,
        values: Tensor,
        places: Places,
        rotary: Rotary | None,
        norms: HeadNorms | None,
    ) -> Tensor:
        if not self._long(together):
            return super().place(together, keys, values, places, rotary, norms)
        span = Span(int(places.slots[0]), int(places.positions[0]), [0] * len(together))
        return PlainOperations(self.kv_type).place(
            together, keys, values, Spans([span], together.device), rotary, norms
        )

    def gate(self, gate_up: Tensor, activation: Activation) -> Tensor:
        if not self._long(gate_up):
            return super().gate(gate_up, activation)
        return gated(gate_up, activation).to(self.kv_type)

    def _long(self, rows: Tensor) -> bool:
        return len(rows) > MANY


class DeepSequences(GPUSequences):
    """Fed with texts of few different tokens."""

    def __init__(self, path: Path, half: torch.dtype) -> None:
        super().__init__(path, half, slots=2, length=LENGTH, operations=FastRows)
        self._gather, self.embedding = self.embedding, self._embedded  # type: ignore[assignment]
        self._known = torch.full((self.config.vocabulary_size, self.config.embedding_length), torch.nan)

    def at_depths(self, tokens: list[int]) -> np.ndarray:
        """The logits of `ASKED`."""
        found, start = [], 0
        for end in DEPTHS:
            with large_tiles():
                for length in _chunks(end - TAIL - start):
                    self.logits(Span(1, start, tokens[start : start + length]), last=0)
                    start += length
            for length in (TAIL, *[1] * SINGLES):
                found.append(self.logits(Span(1, start, tokens[start : start + length]), last=2)[1])
                start += length
        return np.concatenate(found)

    def _embedded(self, tokens: Tensor, last: Tensor, slots: Tensor) -> Tensor:
        """Of many tokens each different one once."""
        if len(tokens) <= MANY:
            return self._gather(tokens, last, slots)
        different = tokens.unique()
        different = different[self._known[different.long(), 0].isnan()]
        if len(different):
            self._known[different.long()] = self._gather(different, last, torch.zeros_like(different))
        return self._known[tokens.long()]


@contextmanager
def large_tiles() -> Iterator[None]:
    """Blocks of spans' attention as large as Triton lets them be."""
    usual = span_attention.blocks

    def large(heads: Heads, device: Device) -> dict[str, int]:
        return {**usual(heads, device), "ROWS": 2048, "KEYS": 512}

    span_attention.blocks = large
    try:
        yield
    finally:
        span_attention.blocks = usual


def _chunks(count: int) -> list[int]:
    return [min(CHUNK, count - first) for first in range(0, count, CHUNK)]


def asked() -> list[int]:
    """Two tokens at the end of each piece of the prompt, and single ones."""
    return [position for depth in DEPTHS for position in range(depth - 2, depth + SINGLES)]


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max() / np.ptp(theirs))


@pytest.mark.parametrize("name", CASES)
def test_logits_far_into_a_text_are_the_numpy_decoders(name: str, tmp_path: Path) -> None:
    import time
    path = tmp_path / "model.gguf"
    write(replace(LONG_CASES[name], block_formats=FORMATS, **CASES[name]), path)
    rng = np.random.default_rng(1)
    tokens = rng.choice(rng.integers(0, 49_152, VOCABULARY), LENGTH).tolist()
    t = time.time()
    right = PlainDecoder(path, context_length=LENGTH).logits(tokens[:asked()[-1] + 1], asked())
    print("plain", time.time() - t); t = time.time()
    a = DeepSequences(path, torch.float32).at_depths(tokens)
    print("float32", time.time() - t, difference(a, right)); t = time.time()
    half = half_type(read_header(path))
    b = DeepSequences(path, getattr(torch, half)).at_depths(tokens)
    print(half, time.time() - t, difference(b, right), [difference(x, y) for x, y in zip(b, right)])
    assert difference(a, right) < EXACT
