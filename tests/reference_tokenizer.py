"""llama.cpp's own tokenizer on the vocabulary of a file: what `inference.gguf.tokenizer` must agree with."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from inference.protocols import Tokenizer

__all__ = ["COUNT", "assert_same_ids", "reference_tokenizer"]

COUNT = int(os.environ.get("TOKENIZER_STRINGS", "2000"))
"""Generated strings for each vocabulary. The whole proof is `TOKENIZER_STRINGS=20000`: about a minute."""


@contextmanager
def reference_tokenizer(path: Path) -> Iterator[Tokenizer]:
    """llama.cpp's tokenizer for the file, of which it reads the vocabulary alone."""
    llama_cpp = pytest.importorskip("llama_cpp.llama_cpp")
    from inference_llama_cpp.library import start
    from inference_llama_cpp.tokenizer import LlamaTokenizer

    start()
    options = llama_cpp.llama_model_default_params()
    options.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), options)
    assert model, f"llama.cpp does not load {path}"
    try:
        yield LlamaTokenizer(llama_cpp.llama_model_get_vocab(model))
    finally:
        llama_cpp.llama_model_free(model)


def assert_same_ids(ours: Tokenizer, reference: Tokenizer, texts: Sequence[str]) -> None:
    """Both turn each text into the same ids, under one of the four settings, each in turn."""
    for number, text in enumerate(texts):
        settings = {"add_special": bool(number & 1), "parse_special": bool(number & 2)}
        found, expected = ours.encode(text, **settings), reference.encode(text, **settings)
        assert found == expected, f"{text!r} under {settings}"
