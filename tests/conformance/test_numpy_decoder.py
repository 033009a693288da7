"""The numpy decoder says what every architecture means; llama.cpp, which nobody here wrote, agrees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bare_llama import BareLlama

from conformance.cases import CASES, LONG_CASES
from conformance.decoder import Decoder
from conformance.files import Recipe, rewrite, write

TOLERANCE = 1e-3
"""Largest difference of logits, by their range."""


def reference(path: Path, tokens: list[int], positions: list[int], context_length: int) -> np.ndarray:
    """llama.cpp's logits on the twin of `path`, in which nothing is quantised."""
    twin = path.with_suffix(".twin.gguf")
    rewrite(path, twin, "F32")
    llama = BareLlama(twin, context_length, exact=True)
    try:
        return llama.logits(tokens, positions)
    finally:
        llama.free()
        twin.unlink()


def random_tokens(count: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, 49_152, count).tolist()


def compare(recipe: Recipe, path: Path, length: int, positions: list[int]) -> float:
    """The largest difference of logits by their range."""
    write(recipe, path)
    tokens = random_tokens(length, recipe.seed)
    ours = Decoder(path, context_length=length).logits(tokens, positions)
    theirs = reference(path, tokens, positions, length)
    return float(np.abs(ours - theirs).max() / np.ptp(theirs))


@pytest.mark.real_model
@pytest.mark.parametrize("name", CASES)
def test_logits_are_llama_cpps_on_64_positions(name: str, tmp_path: Path) -> None:
    assert compare(CASES[name], tmp_path / "model.gguf", 64, list(range(64))) <= TOLERANCE


@pytest.mark.real_model
@pytest.mark.slow
@pytest.mark.parametrize("name", LONG_CASES)
def test_logits_are_llama_cpps_far_into_a_text(name: str, tmp_path: Path) -> None:
    around = [*range(5_984, 6_016), *range(11_984, 12_016)]
    assert compare(LONG_CASES[name], tmp_path / "model.gguf", 12_032, around) <= TOLERANCE
