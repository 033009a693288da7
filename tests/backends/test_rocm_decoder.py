"""The GPU's decoder, all of whose kernels Triton's interpreter computes: what the numpy decoder says."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from conformance.cases import CASES, EVERY_FORMAT
from conformance.decoder import Decoder as PlainDecoder
from conformance.files import write
from conformance.near_ties import divergence
from conformance.yardstick import yardstick

torch = pytest.importorskip("torch")
pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("Triton compiles for the GPU here", allow_module_level=True)

from gpu_sequences import GPUSequences, engine_of  # noqa: E402 - after torch and triton are known to be there
from inference_rocm.spans import Span  # noqa: E402

LENGTH = 8
"""Tokens: enough to be fed in pieces. The interpreter takes milliseconds for each token and layer."""
TOLERANCE = 1e-5
"""Largest difference of logits by their range: float32 sums in another order."""
SHAPES = [
    "llama-odd-heads", "llama-seven-heads", "llama-eight-to-one", "llama-fused", "gemma2-odd-heads",
    "phi3-partial-rotary", "granite-no-positions", "mixtral", "qwen2moe-lengths", "gpt-oss-mxfp4",
]  # fmt: skip
"""Those that a kernel could get wrong."""


def random_tokens(seed: int, count: int = LENGTH) -> list[int]:
    return np.random.default_rng(seed).integers(0, 49_152, count).tolist()


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max() / np.ptp(theirs))


@pytest.mark.parametrize("name", [*EVERY_FORMAT, *SHAPES])
def test_logits_are_the_numpy_decoders_however_the_tokens_are_fed(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write(CASES[name], path)
    tokens = random_tokens(1)
    expected = PlainDecoder(path, context_length=64).logits(tokens)
    assert difference(GPUSequences(path).in_pieces(tokens, [5, 1, 2]), expected) < TOLERANCE


@pytest.mark.parametrize("name", ["llama-Q4_0", "gemma3-one-kv-head"])
def test_sequences_side_by_side_are_computed_as_if_alone(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write(CASES[name], path)
    texts = {slot: random_tokens(slot) for slot in (0, 1, 3)}
    alone, together = GPUSequences(path), GPUSequences(path)
    expected = {slot: alone.in_pieces(tokens, [LENGTH], slot) for slot, tokens in texts.items()}
    together.logits(*(Span(slot, 0, tokens[: 2 + slot]) for slot, tokens in texts.items()))
    # Slots 0 and 3 go on by one token; then slot 1 by the rest of its text.
    found = together.logits(Span(3, 5, texts[3][5:6]), Span(0, 2, texts[0][2:3]))
    found |= together.logits(Span(1, 3, texts[1][3:]))
    for slot, end in {0: 3, 1: LENGTH, 3: 6}.items():
        rows = found[slot]
        assert difference(rows, expected[slot][end - len(rows) : end]) < TOLERANCE


@pytest.mark.parametrize("name", ["llama-Q4_K", "llama-BF16", "qwen3-every-format"])
def test_the_files_own_half_type_is_no_farther_from_exact_arithmetic_than_the_yardstick(
    name: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.gguf"
    write(CASES[name], path)
    tokens = random_tokens(1)
    exact = PlainDecoder(path, context_length=64).logits(tokens)
    bound = yardstick(path, tokens, tmp_path).bound
    assert divergence(exact, engine_of(path).in_pieces(tokens, [5, 1, 2]))[0] <= bound
