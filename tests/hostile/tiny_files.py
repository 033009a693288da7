"""Whole models of every architecture in some tens of kilobytes, vocabulary and chat template included.

Small as they are, each has all that a converter writes: a mutation of any of their fields is one that a real file could
have.
"""

from __future__ import annotations

import string
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from conformance.files import Recipe, write
from gguf_files import F32, I32, STRING, array_of, gguf_bytes

from inference.gguf.architectures import ARCHITECTURES
from inference.gguf.tokenizer.vocabulary import BYTE_CHARACTERS

__all__ = ["ARCHITECTURES", "tiny_file"]

NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6
"""Types of tokens, as `tokenizer.ggml.token_type` has them."""
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
)
SENTENCEPIECE = {"gemma2", "gemma3"}
"""The others have a vocabulary of bytes, as most of their models."""


@cache
def tiny_file(architecture: str) -> bytes:
    """The bytes of a sound GGUF file: two layers, weights at random."""
    with TemporaryDirectory() as name:
        vocabulary, model = Path(name, "vocabulary.gguf"), Path(name, "model.gguf")
        keys = _sentencepiece() if architecture in SENTENCEPIECE else _byte_level()
        vocabulary.write_bytes(gguf_bytes({"general.architecture": architecture, **keys}))
        write(
            Recipe(
                architecture=architecture,
                embedding_length=32,
                head_length=16,
                heads=2,
                kv_heads=1,
                feed_forward_length=48,
                optional=True,
                vocabulary=vocabulary,
            ),
            model,
        )
        return model.read_bytes()


def _byte_level() -> dict[str, Any]:
    merges = ["t h", "i n", "Ġ th", "e r", "Ġth e"]
    control = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens = [*control, *BYTE_CHARACTERS, *(merge.replace(" ", "") for merge in merges)]
    types = [CONTROL] * len(control) + [NORMAL] * (len(tokens) - len(control))
    return _shared("gpt2", tokens, types, bos=1, eos=2) | {
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.merges": array_of(STRING, merges),
        "tokenizer.ggml.add_bos_token": False,
    }


def _sentencepiece() -> dict[str, Any]:
    control = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    words = ["▁", "th", "▁th", "▁the", "in", "er", *string.ascii_letters, *string.digits, *".,:;!?"]
    tokens = [*control, *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    types = [UNKNOWN, *[CONTROL] * (len(control) - 1), *[BYTE] * 256, *[NORMAL] * len(words)]
    return _shared("llama", tokens, types, bos=1, eos=2) | {
        "tokenizer.ggml.scores": array_of(F32, [-float(index) for index in range(len(tokens))]),
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_space_prefix": True,
    }


def _shared(model: str, tokens: list[str], types: list[int], *, bos: int, eos: int) -> dict[str, Any]:
    return {
        "tokenizer.ggml.model": model,
        "tokenizer.ggml.tokens": array_of(STRING, tokens),
        "tokenizer.ggml.token_type": array_of(I32, types),
        "tokenizer.ggml.bos_token_id": bos,
        "tokenizer.ggml.eos_token_id": eos,
        "tokenizer.chat_template": TEMPLATE,
    }
