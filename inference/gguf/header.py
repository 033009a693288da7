"""What a GGUF file is: its metadata, its tensors, and the figures that follow from them."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, TypeAlias

from inference.errors import CorruptFileError, OptionValueError
from inference.gguf.block_formats import block_format
from inference.gguf.sampling import file_sampling
from inference.gguf.values import Metadata, Value
from inference.options import GenerateOptions

__all__ = ["Header", "Kind", "TensorInfo"]

Kind: TypeAlias = Literal["model", "projector", "adapter", "control vector", "imatrix", "vocabulary"]

MAX_LAYERS = 65_536
"""More layers than this are no model; llama.cpp stops at 512."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where one tensor lies and how."""

    name: str
    shape: tuple[int, ...]
    """In the file's order: the dimension whose elements lie side by side comes first, the reverse of numpy's."""
    type: str
    """The block format by ggml's name: "F32", "Q4_K", ..."""
    offset: int
    """Of the first byte, from the beginning of the file."""
    size_bytes: int
    path: Path
    """The file that holds it: one of `Header.paths`."""

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, eq=False)
class Header:
    """A GGUF file without its weights. A split model is one header.

    The typed getters and the properties that read metadata raise CorruptFileError, naming the key, where it is missing
    or of another type.
    """

    path: Path
    """The file, or the first shard."""
    paths: tuple[Path, ...]
    """Every shard, in order."""
    version: int
    alignment: int
    """Tensors begin at multiples of this many bytes."""
    metadata: Metadata = field(repr=False)
    """Every key and value (of the first shard), decoded as they are asked for."""
    tensors: Mapping[str, TensorInfo] = field(repr=False)
    """By name, in the file's order."""

    # What it is --------------------------------------------------------------------------------------------------

    @property
    def kind(self) -> Kind:
        """What the file is for. Only a "model" can generate text."""
        declared = self.metadata.get("general.type")
        if declared == "mmproj" or self.architecture in ("clip", "mmproj"):
            return "projector"
        if declared == "adapter" or "adapter.type" in self.metadata:
            return "adapter"
        if self.architecture == "controlvector":
            return "control vector"
        if declared == "imatrix" or "imatrix.chunk_count" in self.metadata:
            return "imatrix"
        return "model" if self.tensors else "vocabulary"

    @property
    def architecture(self) -> str:
        """`general.architecture`: "llama", "gemma3", ...; "" for files that are no model and name none."""
        return self.text("general.architecture", "")

    @property
    def name(self) -> str:
        """`general.name`, or the file's name without its ending."""
        return self.text("general.name", "") or re.sub(r"-\d{5}-of-\d{5}$", "", self.path.stem)

    @property
    def size_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.size_bytes for tensor in self.tensors.values())

    @property
    def parameters(self) -> int:
        """Elements of all tensors."""
        return sum(tensor.elements for tensor in self.tensors.values())

    @property
    def quantization(self) -> str:
        """The block format that holds most bytes; "none" without tensors."""
        sizes: Counter[str] = Counter()
        for tensor in self.tensors.values():
            sizes[tensor.type] += tensor.size_bytes
        return max(sizes, key=sizes.__getitem__, default="none")

    @property
    def digest(self) -> str:
        """Of all that the file says before its weights, in hexadecimal digits."""
        content = blake2b(self.metadata.stored_bytes(), digest_size=16)
        for tensor in self.tensors.values():
            content.update(repr((tensor.name, tensor.shape, tensor.type, tensor.offset)).encode())
        return content.hexdigest()

    # The model's hyper-parameters --------------------------------------------------------------------------------

    def architecture_key(self, name: str) -> str:
        """The architecture's own key: "block_count" is "llama.block_count" in a llama's file."""
        return f"{self.architecture}.{name}"

    @property
    def layers(self) -> int:
        count = self._count("block_count")
        if count > MAX_LAYERS:
            raise self._wrong(self.architecture_key("block_count"), f"at most {MAX_LAYERS:,}", f"{count:,}")
        return count

    @property
    def train_context_length(self) -> int:
        """Tokens that the model was trained for."""
        return self._count("context_length")

    @property
    def embedding_length(self) -> int:
        return self._count("embedding_length")

    @property
    def head_count(self) -> int:
        """Attention heads; of the layer that has most, where layers differ."""
        return max(self._per_layer("attention.head_count"), default=0)

    @property
    def head_count_kv(self) -> tuple[int, ...]:
        """KV heads of each layer; 0 in layers that keep no keys and values."""
        if self.architecture_key("attention.head_count_kv") in self.metadata:
            return self._per_layer("attention.head_count_kv")
        return self._per_layer("attention.head_count")

    @property
    def key_length(self) -> int:
        """Elements of one head's key."""
        return self._head_length("attention.key_length")

    @property
    def value_length(self) -> int:
        """Elements of one head's value."""
        return self._head_length("attention.value_length")

    def kv_bytes_per_token(self, kv_type: str = "f16") -> int:
        """KV memory of one token in one sequence, all layers together, for keys and values stored as `kv_type`.

        An upper bound for architectures whose layers forget (sliding windows) or do not all attend.

        Raises:
            OptionValueError: ggml has no such type.
        """
        try:
            form = block_format(kv_type)
        except KeyError:
            raise OptionValueError(f"`kv_cache_type` {kv_type!r} is no type that ggml has.") from None
        keys = self._layer_lengths("attention.key_length", self.key_length)
        values = self._layer_lengths("attention.value_length", self.value_length)
        if self._count("attention.key_length_mla", 0):
            # Multi-head latent attention: the cached key holds the value too.
            values = (0,) * len(values)
        last = len(keys) - self._count("attention.shared_kv_layers", 0)
        return sum(
            form.bytes_for(heads * key) + form.bytes_for(heads * value)
            for layer, (heads, key, value) in enumerate(zip(self.head_count_kv, keys, values, strict=True))
            if layer < last
        )

    # The tokenizer, chat and sampling ----------------------------------------------------------------------------

    @property
    def vocabulary_size(self) -> int:
        """Tokens of the vocabulary; 0 if the file does not say."""
        if "tokenizer.ggml.tokens" in self.metadata:
            length = self.metadata.length("tokenizer.ggml.tokens")
            if length is None:
                raise self._mistyped("tokenizer.ggml.tokens", "an array of strings")
            return length
        return self._count("vocab_size", 0)

    @property
    def chat_template(self) -> str | None:
        """Jinja source, None if the file has none."""
        return self.text("tokenizer.chat_template", "") or None

    @property
    def sampling_metadata(self) -> dict[str, Value]:
        """The values of `general.sampling.*` as they are stored, by the last part of their key."""
        prefix = "general.sampling."
        return {key[len(prefix) :]: self.metadata[key] for key in self.metadata if key.startswith(prefix)}

    @property
    def sampling(self) -> GenerateOptions | None:
        """The sampling defaults that the file carries, as options; None without any."""
        return file_sampling(self)

    # Typed getters -----------------------------------------------------------------------------------------------

    def integer(self, key: str, default: int | None = None) -> int:
        """The whole number at `key`, or `default` if the file has no such key."""
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._mistyped(key, "a whole number")
        return value

    def real(self, key: str, default: float | None = None) -> float:
        """The number at `key`, or `default` if the file has no such key."""
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._mistyped(key, "a number")
        return float(value)

    def boolean(self, key: str, default: bool | None = None) -> bool:
        """The truth value at `key`, or `default` if the file has no such key."""
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self._mistyped(key, "a truth value")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """The string at `key`, or `default` if the file has no such key."""
        value = self._get(key, default)
        if not isinstance(value, str):
            raise self._mistyped(key, "a string")
        return value

    def integers(self, key: str) -> Sequence[int]:
        """The array of whole numbers at `key`."""
        return self._array(key, int, "an array of whole numbers")

    def texts(self, key: str) -> Sequence[str]:
        """The array of strings at `key`."""
        return self._array(key, str, "an array of strings")

    def _array(self, key: str, element: type, wanted: str) -> Sequence[Any]:
        value = self._get(key, None)
        # Every element of an array has the type of the first, and a truth value is no number here.
        if isinstance(value, str) or not isinstance(value, Sequence) or (value and type(value[0]) is not element):
            raise self._mistyped(key, wanted)
        return value

    def _get(self, key: str, default: Value | None) -> Value:
        if key in self.metadata:
            return self.metadata[key]
        if default is None:
            raise CorruptFileError(f"{self.path} has no `{key}`. Convert it again with a current converter.")
        return default

    def _count(self, name: str, default: int | None = None) -> int:
        key = self.architecture_key(name)
        value = self.integer(key, default)
        if value < 0:
            raise self._wrong(key, "at least 0", str(value))
        return value

    def _per_layer(self, name: str) -> tuple[int, ...]:
        """A figure that the file gives once, or once for each layer; 0 where it does not, for a model without
        attention has none to give."""
        key, layers = self.architecture_key(name), self.layers
        if key not in self.metadata or self.metadata.length(key) is None:
            return (self._count(name, 0),) * layers
        values = self.integers(key)
        if len(values) != layers:
            raise self._wrong(key, f"one number for each of {layers} layers", f"{len(values)} numbers")
        if min(values, default=0) < 0:
            raise self._wrong(key, "at least 0", str(min(values)))
        return tuple(values)

    def _head_length(self, name: str) -> int:
        if self.architecture_key(name) in self.metadata:
            return self._count(name)
        heads = self.head_count
        return self.embedding_length // heads if heads else 0

    def _layer_lengths(self, name: str, full: int) -> tuple[int, ...]:
        """For each layer the length of a key or value; layers with a sliding window may have their own."""
        windowed = self._count(f"{name}_swa", full)
        pattern = self.metadata.get(self.architecture_key("attention.sliding_window_pattern"))
        if isinstance(pattern, Sequence) and not isinstance(pattern, str) and len(pattern) == self.layers:
            return tuple(windowed if is_windowed else full for is_windowed in pattern)
        return (max(windowed, full),) * self.layers

    def _mistyped(self, key: str, wanted: str) -> CorruptFileError:
        return self._wrong(key, wanted, self.metadata.type_name(key))

    def _wrong(self, key: str, wanted: str, found: str) -> CorruptFileError:
        return CorruptFileError(f"{self.path} is damaged: `{key}` must be {wanted}, and is {found}. Convert it again.")
