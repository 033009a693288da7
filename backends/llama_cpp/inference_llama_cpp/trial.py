"""What a worker process does with a file before this one's llama.cpp sees it: all at which llama.cpp may end a process.

llama.cpp asserts where a file contradicts itself: while it reads the vocabulary, builds the compute graph, computes,
splits a text into tokens.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

os.environ["GGML_NO_BACKTRACE"] = "1"  # it would ask a debugger

from inference.errors import InferenceError
from inference.options import LoadOptions
from inference_llama_cpp.context import ContextSettings, make_context
from inference_llama_cpp.library import bindings
from inference_llama_cpp.tokenizer import LlamaTokenizer
from inference_llama_cpp.weights import load_weights

__all__ = ["try_out"]

LENGTH = 256
"""Tokens of context."""
FEW = 4
"""Tokens that are computed together, and then one by itself."""
TEXT = "The fox, 1234.5%\n\t\r  na\xefve \u03a9 \u4e2d\u6587 \ud55c\u0627 \U0001f642\u200d\u0301\ufffd <|im_start|></s>"


def try_out(wanted: tuple[list[str], bool]) -> str | None:
    """Load the shards at these paths, with their weights or without; None if llama.cpp took it, else its refusal."""
    paths, with_weights = wanted
    options = LoadOptions(device="cpu")
    try:
        model = load_weights(tuple(map(Path, paths)), options, 0, allocate=with_weights)
        tokenizer = LlamaTokenizer(bindings.llama_model_get_vocab(model))
        _tokenize(tokenizer)
        settings = ContextSettings(context_length=LENGTH, batch_size=LENGTH, threads=1, options=options)
        context = make_context(model, settings, 2, LENGTH)
        if with_weights:
            _compute(context, tokenizer.vocabulary_size)
        bindings.llama_free(context)
        bindings.llama_model_free(model)
    except InferenceError as error:
        return str(error)
    return None


def _tokenize(tokenizer: LlamaTokenizer) -> None:
    """Every text that there is in bytes, and every token."""
    for character in map(chr, range(0x800)):  # of one byte and of two: all that a character can begin with and go on
        tokenizer.encode(character)
    for special in (True, False):
        tokenizer.encode(TEXT, add_special=special, parse_special=special)
    for token in range(tokenizer.vocabulary_size):
        tokenizer.token_bytes(token)
    tokenizer.control_texts()


def _compute(context: Any, vocabulary: int) -> None:
    for count in (min(FEW, vocabulary), 1):
        tokens = (bindings.llama_token * count)(*range(count))
        bindings.llama_decode(context, bindings.llama_batch_get_one(ctypes.cast(tokens, bindings.llama_token_p), count))
    bindings.llama_synchronize(context)
