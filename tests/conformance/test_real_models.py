"""Two real models: the text of the numpy decoder is llama.cpp's, and how far llama.cpp is from exact arithmetic."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from bare_llama import BareLlama
from inference_llama_cpp.library import bindings
from inference_llama_cpp.tokenizer import LlamaTokenizer

from conformance.decoder import Decoder
from conformance.near_ties import near_ties

PROMPTS = (
    "Once upon a time, in a small village by the sea,",
    "def fibonacci(n: int) -> int:\n",
    "The capital of France is Paris. The capital of Italy is",
    "Zutaten: 200 g Mehl, 3 Eier,",
    "1, 1, 2, 3, 5, 8, 13,",
)
TOKENS = 64


@pytest.fixture(scope="module", params=["smollm_path", "gemma_path"])
def model(request: pytest.FixtureRequest) -> Iterator[tuple[BareLlama, Decoder, LlamaTokenizer]]:
    path: Path = request.getfixturevalue(request.param)
    llama = BareLlama(path, 512)
    yield llama, Decoder(path), LlamaTokenizer(bindings.llama_model_get_vocab(llama.model))
    llama.free()


@pytest.mark.slow
@pytest.mark.real_model
def test_the_text_is_llama_cpps_but_for_shown_near_ties(model: tuple[BareLlama, Decoder, LlamaTokenizer]) -> None:
    llama, decoder, tokenizer = model
    for text in PROMPTS:
        prompt = tokenizer.encode(text)
        tokens, theirs = llama.greedy(prompt, TOKENS)
        chosen_at = range(len(prompt) - 1, len(prompt) + TOKENS - 1)
        ours = decoder.logits(prompt + tokens[:-1], chosen_at)
        near_ties(ours, ours, theirs)
