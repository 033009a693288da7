"""What a model folder is: its config, its tensors, and the figures that follow from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inference.errors import OptionValueError
from inference.folder.safetensors import StoredTensor
from inference.gguf.block_formats import block_format
from inference.options import GenerateOptions

__all__ = ["Folder", "Quantization", "SpecialTokens"]

_PACKED = ("weight", "qweight")
"""Matrices whose weights lie side by side in 32-bit words: MLX's name for them, and that of AWQ and GPTQ."""
_BESIDE = ("scales", "biases", "qzeros", "g_idx")
"""What lies beside such a matrix and holds no weights of its own."""


@dataclass(frozen=True, slots=True)
class Quantization:
    """How a folder says that its matrices are packed."""

    text: str
    """For people: "4-bit", "mxfp4", "awq 4-bit"."""
    bits: int | None
    """For each weight; None if the folder does not say."""
    bits_by_layer: Mapping[str, int] = field(default_factory=dict)
    """Where layers differ, by the name of the layer."""

    def bits_of(self, layer: str) -> int | None:
        return self.bits_by_layer.get(layer, self.bits)


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """What a folder says of its tokens beside tokenizer.json."""

    bos: str | int | None
    """The beginning-of-sequence token, by its text or its id."""
    eos: str | int | None
    """The end-of-sequence token."""
    ends: tuple[int, ...]
    """The ids that end a generation, `eos` maybe not among them."""
    add_bos: bool | None
    """Whether a prompt begins with BOS; None if tokenizer.json alone says it."""
    add_eos: bool | None


@dataclass(frozen=True, eq=False)
class Folder:
    """A model folder without its weights. All of it was checked when it was read. Attributes that a GGUF file's header
    has too mean the same there."""

    path: Path
    paths: tuple[Path, ...]
    """Every file of weights."""
    config: Mapping[str, Any] = field(repr=False)
    """config.json, as it is."""
    tensors: Mapping[str, StoredTensor] = field(repr=False)
    """By name, file by file."""
    name: str
    """The folder's name; of one in Hugging Face's cache, the repository's."""
    architecture: str
    """`model_type` of config.json: "llama", "gemma3_text", ..."""
    layers: int
    train_context_length: int
    """Tokens that the model was trained for; 0 if the folder does not say."""
    vocabulary_size: int
    """Rows of the embeddings: there may be fewer tokens."""
    kv_elements_per_token: int
    """Numbers in the keys and values of one token, all layers together; 0 if the folder does not say. An upper bound
    for architectures whose layers forget (sliding windows) or do not all attend."""
    quantized_as: Quantization | None
    """None if the matrices are stored as plain numbers."""
    special_tokens: SpecialTokens
    chat_template: str | None = field(repr=False)
    """Jinja source, None if the folder has none."""
    sampling: GenerateOptions | None
    """The sampling defaults of generation_config.json, None without any."""
    sampling_metadata: Mapping[str, Any]
    """The same, as they are written there."""

    kind = "model"

    @property
    def metadata(self) -> Mapping[str, Any]:
        """config.json, as it is."""
        return self.config

    @property
    def size_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.size_bytes for tensor in self.tensors.values())

    @property
    def bytes_by_type(self) -> Mapping[str, int]:
        """Bytes of all tensors of a type ("BF16", "U32", ...), most first."""
        sizes: Counter[str] = Counter()
        for tensor in self.tensors.values():
            sizes[tensor.type] += tensor.size_bytes
        return dict(sizes.most_common())

    @property
    def quantization(self) -> str:
        """What the weights are stored as: "4-bit", or the type that holds most bytes ("BF16")."""
        return self.quantized_as.text if self.quantized_as else next(iter(self.bytes_by_type), "none")

    @property
    def parameters(self) -> int:
        """Weights of all tensors. A word of a packed matrix holds several; scales and offsets are none."""
        return sum(self._weights(tensor) for tensor in self.tensors.values())

    def kv_bytes_per_token(self, kv_type: str = "f16") -> int:
        """KV memory of one token in one sequence, all layers together, for keys and values stored as `kv_type`; 0 if
        the folder does not say.

        Raises:
            OptionValueError: ggml has no such type.
        """
        try:
            return block_format(kv_type).bytes_for(self.kv_elements_per_token)
        except KeyError:
            raise OptionValueError(f"`kv_cache_type` {kv_type!r} is no type that ggml has.") from None

    def _weights(self, tensor: StoredTensor) -> int:
        layer, _, part = tensor.name.rpartition(".")
        bits = self.quantized_as.bits_of(layer) if self.quantized_as else None
        if part in _BESIDE and any(self._is_packed(f"{layer}.{packed}") for packed in _PACKED):
            return 0
        if bits and part in _PACKED and self._is_packed(tensor.name):
            return tensor.elements * 32 // bits
        return tensor.elements

    def _is_packed(self, name: str) -> bool:
        return name in self.tensors and self.tensors[name].type in ("U32", "I32")
