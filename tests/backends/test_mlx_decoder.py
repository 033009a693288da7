"""mlx-lm's layers, filled from a file, compute what the numpy decoder says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conformance.cases import BLOCK_FORMATS, CASES
from conformance.decoder import Decoder as PlainDecoder
from conformance.files import write
from conformance.near_ties import divergence

from inference.gguf.reader import read_header

mx = pytest.importorskip("mlx.core")

from inference_mlx.forms import FORMS  # noqa: E402
from mlx_sequences import MLXSequences  # noqa: E402

pytestmark = pytest.mark.real_model

LENGTH = 48
TOLERANCE = 1e-4
"""Largest difference of logits by their range: float32 sums in another order."""


ONE_FORMAT = {f"llama-{name}" for name in BLOCK_FORMATS}
"""Files that say nothing that those of every format do not; `make conformance` runs them too."""


def random_tokens(seed: int, count: int = LENGTH) -> list[int]:
    return np.random.default_rng(seed).integers(0, 49_152, count).tolist()


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max() / np.ptp(theirs))


@pytest.mark.parametrize("name", [name for name in CASES if name not in ONE_FORMAT])
def test_logits_are_the_numpy_decoders_however_the_tokens_are_fed(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write(CASES[name], path)
    tokens, pieces = random_tokens(1), [20, 1, 1, 25, 1]
    expected = PlainDecoder(path, context_length=LENGTH).logits(tokens, np.cumsum(pieces) - 1)
    found = MLXSequences(path, length=LENGTH).after(tokens, pieces)
    if all(FORMS[tensor.type].exact for tensor in read_header(path).tensors.values()):
        assert difference(found, expected) < TOLERANCE
    else:  # some weights were quantised anew; `make conformance` compares with llama.cpp's own rounding
        assert divergence(expected, found)[0] < 1e-2


@pytest.mark.parametrize("name", ["llama-Q4_0", "gemma2-odd-heads", "gemma3-pattern", "granite-biases", "olmo2-yarn"])
def test_activations_and_keys_keep_the_type_that_a_gpu_multiplies(name: str, tmp_path: Path) -> None:
    """A product that came out as float32 would make all that follows several times slower."""
    path = tmp_path / "model.gguf"
    write(replace(CASES[name], embedding_length=64, head_length=32, feed_forward_length=64), path)
    for dtype in (mx.float16, mx.bfloat16):
        decoder = MLXSequences(path, dtype, length=LENGTH).decoder
        caches = decoder.caches()
        for tokens in ([5, 6, 7], [8]):
            hidden = decoder.hidden(mx.array([tokens]), caches)
            assert hidden.dtype == dtype
            assert {cache.keys.dtype for cache in caches} == {dtype}
        assert decoder.logits(hidden).dtype == mx.float32
