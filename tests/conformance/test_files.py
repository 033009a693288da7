"""The conformance files: the same recipe gives the same bytes, in every format, with a real vocabulary."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from conformance.cases import BLOCK_FORMATS, CASES, EVERY_FORMAT
from conformance.decoder import Decoder
from conformance.files import Recipe, rewrite, write
from inference.gguf.reader import read_header
from inference.gguf.weights import Weights

pytestmark = pytest.mark.real_model


def made(recipe: Recipe, path: Path) -> Path:
    write(recipe, path)
    return path


def test_the_same_recipe_gives_the_same_bytes_and_another_seed_gives_others(tmp_path: Path) -> None:
    recipe = CASES["gpt-oss-mxfp4"]
    first = made(recipe, tmp_path / "first.gguf").read_bytes()
    assert first == made(recipe, tmp_path / "again.gguf").read_bytes()
    assert first != made(replace(recipe, seed=1), tmp_path / "other.gguf").read_bytes()


def test_one_file_of_every_architecture_holds_every_format(tmp_path: Path) -> None:
    for recipe in EVERY_FORMAT.values():
        header = read_header(made(recipe, tmp_path / "model.gguf"))
        assert {tensor.type for tensor in header.tensors.values()} == set(BLOCK_FORMATS)


def test_the_vocabulary_is_that_of_a_real_model(tmp_path: Path, smollm_path: Path) -> None:
    ours = read_header(made(CASES["llama-F32"], tmp_path / "model.gguf"))
    real = read_header(smollm_path)
    for key in real.metadata:
        if key.startswith("tokenizer.ggml."):
            assert ours.metadata[key] == real.metadata[key]


def test_the_twin_has_the_same_weights_in_f32(tmp_path: Path) -> None:
    path, twin = made(CASES["llama-Q4_1"], tmp_path / "model.gguf"), tmp_path / "twin.gguf"
    rewrite(path, twin, "F32")
    with Weights(read_header(path)) as weights, Weights(read_header(twin)) as decoded:
        for name in read_header(path).tensors:
            assert decoded.layout(name).name == "F32"
            np.testing.assert_array_equal(weights.decode(name), decoded.decode(name))


@pytest.mark.parametrize("name", ["llama-biases", "gemma3-one-kv-head", "gpt-oss-mxfp4", "granite-biases"])
def test_each_tensor_matters_for_the_logits(name: str, tmp_path: Path) -> None:
    """A file in which some weight changed nothing would prove nothing of it."""
    recipe = replace(CASES[name], embedding_length=64, heads=2, kv_heads=1, head_length=32, feed_forward_length=64)
    decoder = Decoder(made(recipe, tmp_path / "model.gguf"))
    tokens = np.random.default_rng(0).integers(0, 49_152, 48).tolist()
    before = decoder.logits(tokens)
    for tensor, weight in decoder._tensors.items():
        decoder._tensors[tensor] = weight * 1.5 + 0.5 * np.abs(weight).mean()
        moved = np.abs(decoder.logits(tokens) - before).max() / np.ptp(before)
        decoder._tensors[tensor] = weight
        assert moved > 5e-3, f"{tensor} moves the logits by {moved:.1e} of their range"
