"""What a header must say for any engine to believe it: beyond the format, which `read_header` checks.

Engines in C read beyond the end of a list that is shorter than the vocabulary, and compute with any number there is.
"""

from __future__ import annotations

from math import isfinite

from inference.errors import CorruptFileError
from inference.gguf.architectures import ARCHITECTURES
from inference.gguf.header import Header

__all__ = ["require_sound"]

TOKENS = "tokenizer.ggml.tokens"
BESIDE_TOKENS = {"tokenizer.ggml.scores": "float32", "tokenizer.ggml.token_type": "int32"}
"""Lists with an element for each token, and the type of the elements."""


def require_sound(header: Header) -> None:
    """Nothing, if the vocabulary's lists belong together, hyper-parameters are finite, and, where the architecture is
    known here, ropes turn what heads have.

    Raises:
        CorruptFileError: they do not, or are not; it names the key.
    """
    metadata = header.metadata
    if TOKENS in metadata:
        for key, kind in (("tokenizer.ggml.merges", "string"), (TOKENS, "string"), *BESIDE_TOKENS.items()):
            if key in metadata and metadata.type_name(key) not in _lists_of(kind):
                raise _damaged(header, f"`{key}` must be an array of {kind}, and is {metadata.type_name(key)}")
        for key in BESIDE_TOKENS:
            if key in metadata and metadata.length(key) != header.vocabulary_size:
                count, wanted = metadata.length(key), header.vocabulary_size
                raise _damaged(header, f"`{key}` has {count:,} elements for {wanted:,} tokens")
    if header.architecture in ARCHITECTURES:
        key, head = header.architecture_key("rope.dimension_count"), header.key_length
        dimensions = header.integer(key, head)
        if not 2 <= dimensions <= head or dimensions % 2:
            raise _damaged(header, f"`{key}` is {dimensions}, where heads have {head} elements that turn in pairs")
    for key in metadata:
        if key.startswith(f"{header.architecture}.") and metadata.type_name(key) in ("float32", "float64"):
            value = header.real(key)
            if not isfinite(value):
                raise _damaged(header, f"`{key}` is {value}")


def _lists_of(kind: str) -> tuple[str, ...]:
    """What an array of that type is called, with the types that engines take in its place."""
    return ("array of int32", "array of uint32") if kind == "int32" else (f"array of {kind}",)


def _damaged(header: Header, what: str) -> CorruptFileError:
    return CorruptFileError(f"{header.path} is damaged: {what}. Download it again, or convert the model again.")
