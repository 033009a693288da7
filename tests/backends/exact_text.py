"""Greedy text as exact arithmetic gives it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from conformance.decoder import Decoder

__all__ = ["greedy"]


def greedy(path: Path, prompt: Sequence[int], count: int) -> list[int]:
    """The `count` tokens behind a prompt, by the numpy decoder."""
    decoder, tokens = Decoder(path, context_length=len(prompt) + count), list(prompt)
    for _ in range(count):
        tokens.append(int(decoder.logits(tokens)[-1].argmax()))
    return tokens[len(prompt) :]
