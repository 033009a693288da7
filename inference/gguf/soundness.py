"""What a header must say for any engine to believe it: beyond the format, which `read_header` checks.

Engines in C read beyond the end of a list that is shorter than the vocabulary, and compute with any number there is.
"""

from __future__ import annotations

from functools import cache
from math import isfinite

from inference.errors import CorruptFileError
from inference.gguf.architectures import ARCHITECTURES
from inference.gguf.architectures.tensors import trimmed
from inference.gguf.header import Header

__all__ = ["require_sound"]

TOKENS = "tokenizer.ggml.tokens"
BESIDE_TOKENS = {"tokenizer.ggml.scores": "float32", "tokenizer.ggml.token_type": "int32"}
"""Lists with an element for each token, and the type of the elements."""


def require_sound(header: Header) -> None:
    """Nothing, if the vocabulary's lists belong together, hyper-parameters are finite, and, where the architecture is
    known here, ropes turn what heads have, and each layer has tensors as wide as the model.

    Raises:
        CorruptFileError: they do not, or are not; it names the key or the tensor.
    """
    if TOKENS in header.metadata:
        _require_lists(header)
    if header.architecture in ARCHITECTURES:
        _require_ropes(header)
        _require_layers(header)
    for key in header.metadata:
        if key.startswith(f"{header.architecture}.") and header.metadata.type_name(key) in ("float32", "float64"):
            value = header.real(key)
            if not isfinite(value):
                raise _damaged(header, f"`{key}` is {value}")


def _require_lists(header: Header) -> None:
    metadata = header.metadata
    for key, kind in (("tokenizer.ggml.merges", "string"), (TOKENS, "string"), *BESIDE_TOKENS.items()):
        if key in metadata and metadata.type_name(key) not in _lists_of(kind):
            raise _damaged(header, f"`{key}` must be an array of {kind}, and is {metadata.type_name(key)}")
    for key in BESIDE_TOKENS:
        if key in metadata and metadata.length(key) != header.vocabulary_size:
            count, wanted = metadata.length(key), header.vocabulary_size
            raise _damaged(header, f"`{key}` has {count:,} elements for {wanted:,} tokens")


def _require_ropes(header: Header) -> None:
    key, head = header.architecture_key("rope.dimension_count"), header.key_length
    dimensions = header.integer(key, head)
    if not 2 <= dimensions <= head or dimensions % 2:
        raise _damaged(header, f"`{key}` is {dimensions}, where heads have {head} elements that turn in pairs")


def _require_layers(header: Header) -> None:
    """What holds for every variant that llama.cpp may know of an architecture, more of them than our decoders do."""
    width, key = header.embedding_length, header.architecture_key("embedding_length")
    wide, missing = _as_wide_as_the_model(header.architecture), set(range(header.layers))
    if "token_embd.weight" not in header.tensors:
        raise _damaged(header, "there is no tensor `token_embd.weight`")
    for name, tensor in header.tensors.items():
        number, _, role = name.removeprefix("blk.").partition(".") if name.startswith("blk.") else ("", "", name)
        if number.isdecimal() and len(number) < 10:
            missing.discard(int(number))
        dimension, of = wide.get(role, (0, -1))
        if len(trimmed(tensor.shape)) <= of and (*tensor.shape, 1, 1)[dimension] != width:
            found = " x ".join(map(str, tensor.shape))
            raise _damaged(header, f"the tensor `{name}` has the shape {found}, and `{key}` is {width:,}")
    if missing:
        raise _damaged(
            header,
            f"layer {min(missing)} has no tensors, and `{header.architecture_key('block_count')}` is {header.layers:,}",
        )
    shape = header.tensors["token_embd.weight"].shape
    if TOKENS in header.metadata and trimmed(shape) != trimmed((width, header.vocabulary_size)):
        rows = " x ".join(map(str, shape[1:])) or "no"
        raise _damaged(header, f"`token_embd.weight` has {rows} rows for {header.vocabulary_size:,} tokens")


@cache
def _as_wide_as_the_model(architecture: str) -> dict[str, tuple[int, int]]:
    """By a tensor's name, behind its layer's number: which of how many dimensions is the model's width."""
    entry = ARCHITECTURES[architecture]
    experts = entry.experts.tensors if entry.experts else {}
    tensors = (*entry.attention.values(), *(entry.feed_forward or {}).values(), *experts.values())
    wide = {one.name: (one.shape.index("embedding"), len(one.shape)) for one in tensors if "embedding" in one.shape}
    return wide | {"token_embd.weight": (0, 2), "output_norm.weight": (0, 1)}


def _lists_of(kind: str) -> tuple[str, ...]:
    """What an array of that type is called, with the types that engines take in its place."""
    return ("array of int32", "array of uint32") if kind == "int32" else (f"array of {kind}",)


def _damaged(header: Header, what: str) -> CorruptFileError:
    return CorruptFileError(f"{header.path} is damaged: {what}. Download it again, or convert the model again.")
