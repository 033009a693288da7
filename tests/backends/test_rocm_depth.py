"""The same text at depth: the GPU's decoder after 6,000 and 12,000 tokens, on Triton's interpreter, beside the numpy
decoder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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
from inference_rocm.attention import Attention  # noqa: E402
from inference_rocm.gpu import span_attention  # noqa: E402
from inference_rocm.gpu.attention import Heads, attend  # noqa: E402
from inference_rocm.gpu.device import Device  # noqa: E402
from inference_rocm.gpu.operations import TritonOperations  # noqa: E402
from inference_rocm.gpu.places import Places  # noqa: E402
from inference_rocm.gpu.span_attention import query_tiles, tile_tokens  # noqa: E402
from inference_rocm.gpu.workspace import MANY  # noqa: E402
from inference_rocm.operations import HeadNorms, Norm  # noqa: E402
from inference_rocm.plain import PlainOperations, gated  # noqa: E402
from inference_rocm.rotary import Rotary  # noqa: E402
from inference_rocm.spans import Span, Spans  # noqa: E402
from torch import Tensor  # noqa: E402

from inference.gguf.architectures import Activation  # noqa: E402

DEPTHS = (6_000, 12_000)
CHUNK = 2_048
TAIL, SINGLES = 12, 2
"""At each depth: tokens of a last piece of the prompt, and then single ones."""
ASKED = [position for depth in DEPTHS for position in range(depth - 2, depth + SINGLES)]
"""Two tokens at the end of each piece, and the single ones."""
LENGTH = ASKED[-1] + 1
VOCABULARY = 64
"""Different tokens of the text: a row of the embeddings takes the interpreter a millisecond."""
FORMATS = ("F16", "Q8_0")
CASES: dict[str, dict[str, Any]] = {
    "llama": {"heads": 3},  # llama3's scaling; three heads that share their keys are rows of a matrix
    "gemma3": {},  # windows, and a rope of their own
    "phi3": {},  # longrope
    "olmo2": {},  # yarn
}
EXACT = 1e-5
"""Largest difference of logits by their range: float32 sums in another order."""
ROUNDED = {"float16": 2**-9, "bfloat16": 2**-5}
"""The same where keys, values and what matrix cores multiply have the file's half type: four roundings to float16's 11
bits. bfloat16 has three bits less, and the interpreter cuts them off, which is twice as far from the number. It does
not grow with the depth: the sums are float32."""


class FastRows(TritonOperations):
    """What a row of activations goes through by itself takes the interpreter milliseconds. In the prompt's long chunks
    PyTorch computes it (test_rocm_elements.py says that it is the same); in short pieces the kernels do, and matrices
    and attention are always theirs."""

    def normed(self, stream: Tensor, norm: Norm | None) -> Tensor:
        return (
            PlainOperations(self.kv_type).normed(stream, norm) if self._long(stream) else super().normed(stream, norm)
        )

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
            with tiles_of(2048, 512):
                for length in _chunks(end - TAIL - start):
                    self.logits(Span(1, start, tokens[start : start + length]), last=0)
                    start += length
            with tiles_of(64, 256):
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
def tiles_of(rows: int, keys: int) -> Iterator[None]:
    """Blocks of spans' attention: the interpreter wants few of them."""
    usual = span_attention.blocks

    def large(heads: Heads, device: Device, *others: Any, **more: Any) -> dict[str, int]:
        return {**usual(heads, device, *others, **more), "ROWS": rows, "KEYS": keys}

    span_attention.blocks = large
    try:
        yield
    finally:
        span_attention.blocks = usual


def _chunks(count: int) -> list[int]:
    return [min(CHUNK, count - first) for first in range(0, count, CHUNK)]


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max() / np.ptp(theirs))


@dataclass(frozen=True)
class Text:
    path: Path
    tokens: list[int]
    right: np.ndarray
    """The numpy decoder's logits of `ASKED`."""


@pytest.fixture(scope="module")
def text(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Text:
    path = tmp_path_factory.mktemp("depth") / "model.gguf"
    write(replace(LONG_CASES[request.param], block_formats=FORMATS, **CASES[request.param]), path)
    rng = np.random.default_rng(1)
    tokens = rng.choice(rng.integers(0, 49_152, VOCABULARY), LENGTH).tolist()
    return Text(path, tokens, PlainDecoder(path, context_length=LENGTH).logits(tokens, ASKED))


@pytest.mark.parametrize("text", CASES, indirect=True)
def test_logits_far_into_a_text_are_the_numpy_decoders(text: Text) -> None:
    assert difference(DeepSequences(text.path, torch.float32).at_depths(text.tokens), text.right) < EXACT


@pytest.mark.parametrize(("text", "half"), [("olmo2", "float16"), ("gemma3", "bfloat16")], indirect=["text"])
def test_the_files_half_type_is_no_farther_from_them_than_its_rounding(text: Text, half: str) -> None:
    assert half_type(read_header(text.path)) == half
    found = DeepSequences(text.path, getattr(torch, half)).at_depths(text.tokens)
    assert difference(found, text.right) < ROUNDED[half]


@pytest.mark.parametrize("wave", [64, 32])
@pytest.mark.parametrize("window", [None, 1024])
def test_the_blocks_that_a_gpu_gets_reach_as_far(wave: int, window: int | None) -> None:
    """A prompt's last tokens and a single one, whose queries look for keys near both ends of what they see."""
    torch.manual_seed(0)
    gpu, end = Device(torch.device("cpu"), wave, units=1), DEPTHS[-1]
    keys, values = (torch.randn(2, 1, LENGTH, 32) for _ in range(2))
    query = torch.randn(TAIL, 4, 32)
    first = 0 if window is None else end - window
    for place in (first, first + 1, (first + end) // 2, end - TAIL - 1):
        keys[1, 0, place] = query.mean((0, 1)) * 9
    rule: dict[str, Any] = {"scale": 0.2, "softcap": None, "window": window, "sinks": None}
    spans = [Span(1, end - TAIL, [0] * TAIL)]
    right = Attention(**rule)(query, keys, values, Spans(spans, gpu.torch))
    out = torch.empty_like(right)
    tiles = torch.tensor(query_tiles(spans, tile_tokens(4, 1, 32, gpu)), dtype=torch.int32)
    span_attention.attend_spans(query, keys, values, tiles, out, device=gpu, **rule)
    torch.testing.assert_close(out, right, atol=EXACT, rtol=EXACT)
    places = (torch.tensor([number], dtype=torch.int32) for number in (1, end - 1))
    attend(query[-1:], keys, values, *places, out[-1:].zero_(), device=gpu, **rule)
    torch.testing.assert_close(out[-1:], right[-1:], atol=EXACT, rtol=EXACT)
