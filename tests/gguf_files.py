"""GGUF files made by hand, sound or not, from the format's specification: the reader's counterpart in the tests."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference.errors import ModelFileError
from inference.gguf.block_formats import BLOCK_FORMATS, block_format
from inference.gguf.reader import Header

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
CODES = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "B", U64: "Q", I64: "q", F64: "d"}


@dataclass(frozen=True)
class Typed:
    """A value with the type to store it as; for an array also that of its elements, which may be `Typed` themselves."""

    type: int
    value: Any
    element: int | None = None


def array_of(element: int, values: Sequence[Any]) -> Typed:
    return Typed(ARRAY, values, element)


@dataclass(frozen=True)
class Tensor:
    name: str
    shape: tuple[int, ...]
    type: str | int = "F32"
    """A name, or an id that ggml may not have."""
    offset: int | None = None
    """From the first byte of the weights; None puts the tensor behind the one before it."""

    @property
    def type_id(self) -> int:
        return block_format(self.type).id if isinstance(self.type, str) else self.type

    @property
    def size_bytes(self) -> int:
        form = BLOCK_FORMATS.get(self.type_id)
        return form.bytes_for(math.prod(self.shape)) if form else 0


def gguf_bytes(
    metadata: Mapping[str, Any] | Sequence[tuple[str, Any]],
    tensors: Sequence[Tensor] = (),
    *,
    version: int = 3,
    alignment: int = 32,
    key_count: int | None = None,
    tensor_count: int | None = None,
) -> bytes:
    """A whole file. Pairs instead of a mapping may name a key twice; the counts may be made to lie."""
    pairs = list(metadata.items() if isinstance(metadata, Mapping) else metadata)
    counts = (len(tensors) if tensor_count is None else tensor_count, len(pairs) if key_count is None else key_count)
    header = b"GGUF" + struct.pack("<IQQ", version, *counts)
    for key, value in pairs:
        header += text(key) + stored(value)
    place = end = 0
    for tensor in tensors:
        offset = place if tensor.offset is None else tensor.offset
        dimensions = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
        header += text(tensor.name) + dimensions + struct.pack("<IQ", tensor.type_id, offset)
        end = max(end, offset + tensor.size_bytes)
        place = padded(offset + tensor.size_bytes, alignment)
    if not tensors:
        return header
    weights = bytes(i % 251 for i in range(min(end, 1 << 20)))
    return header.ljust(padded(len(header), alignment), b"\x00") + weights


def padded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def stored(value: Any) -> bytes:
    """Type and value, as the format writes them."""
    value = value if isinstance(value, Typed) else guessed(value)
    return struct.pack("<I", value.type) + payload(value)


def payload(value: Typed) -> bytes:
    if value.type == STRING:
        return text(value.value)
    if value.type == ARRAY:
        assert value.element is not None
        items = (item if isinstance(item, Typed) else Typed(value.element, item) for item in value.value)
        return struct.pack("<IQ", value.element, len(value.value)) + b"".join(map(payload, items))
    return struct.pack("<" + CODES[value.type], value.value)


def guessed(value: Any) -> Typed:
    """The type that converters give to such a value."""
    if isinstance(value, list):
        element = guessed(value[0]).type if value else STRING
        return array_of(I32 if element == U32 else element, value)
    kinds = {bool: BOOL, int: U32, float: F32, str: STRING, bytes: STRING}
    return Typed(kinds[type(value)], value)


# A model -------------------------------------------------------------------------------------------------------------

MODEL: dict[str, Any] = {
    "general.architecture": "llama",
    "general.name": "Tiny",
    "llama.block_count": 2,
    "llama.context_length": 128,
    "llama.embedding_length": 64,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.tokens": ["<s>", "</s>", "a", "b"],
    "tokenizer.ggml.scores": [0.0, 0.0, -1.0, -2.0],
}
"""The metadata of a llama that is too small for anything."""

TENSORS = (
    Tensor("token_embd.weight", (64, 4), "Q8_0"),
    Tensor("blk.0.attn_q.weight", (64, 64), "Q4_0"),
    Tensor("blk.0.attn_norm.weight", (64,), "F32"),
    Tensor("blk.1.attn_q.weight", (64, 64), "Q4_0"),
    Tensor("output_norm.weight", (64,), "F32"),
)


def write_model(path: Path, changes: Mapping[str, Any] | None = None, tensors: Sequence[Tensor] = TENSORS) -> Path:
    """The small llama as a file, with some metadata changed; None takes a key away."""
    metadata = {key: value for key, value in (MODEL | dict(changes or {})).items() if value is not None}
    path.write_bytes(gguf_bytes(metadata, tensors))
    return path


def write_shards(folder: Path, count: int = 3, stem: str = "tiny") -> list[Path]:
    """The small llama cut into files, as llama.cpp's gguf-split does it."""
    paths = []
    for number in range(count):
        metadata = (MODEL if number == 0 else {}) | {
            "split.no": Typed(U16, number),
            "split.count": Typed(U16, count),
            "split.tensors.count": Typed(I32, len(TENSORS)),
        }
        path = folder / f"{stem}-{number + 1:05}-of-{count:05}.gguf"
        path.write_bytes(gguf_bytes(metadata, TENSORS[number::count]))
        paths.append(path)
    return paths


# What a header says --------------------------------------------------------------------------------------------------


def figures(header: Header) -> list[object]:
    """Everything that follows from a header. What is missing or wrong in the file must be said as such."""
    names = [name for name in dir(Header) if isinstance(getattr(Header, name), property)]
    found: list[object] = [list(header.metadata.items())]
    for figure in [*(lambda name=name: getattr(header, name) for name in names), header.kv_bytes_per_token]:
        try:
            found.append(figure())
        except ModelFileError as error:
            found.append(error)
    return found
