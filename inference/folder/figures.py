"""A model's figures, from config.json and, for what that leaves out, from its tensors' shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping

from inference.folder.documents import MAX_COUNT, Document, damaged
from inference.folder.safetensors import StoredTensor

__all__ = ["Figures"]

MAX_LAYERS = 65_536
"""More layers than this are no model."""

# Names of the same figure, the usual one first.
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
_WIDTH = ("hidden_size", "n_embd", "d_model")
_CONTEXT = ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx", "seq_length", "max_sequence_length")

_LAYER = re.compile(r"(?:language_model\.)?(?:model\.)?(?:language_model\.)?(?:layers|h)\.(\d{1,5})\.(.+)")
"""Tensors of a decoder's layers. Those of a vision tower have other names before it."""
_EMBEDDINGS = re.compile(r"(?:.*\.)?(?:embed_tokens|wte|word_embeddings|tok_embeddings)\.weight")


class Figures:
    """The figures of one folder. Models that read images too have their language model's in `text_config`.

    Raises:
        CorruptFileError: a figure is of the wrong type, impossible, or nowhere to be found.
    """

    def __init__(self, config: Document, tensors: Mapping[str, StoredTensor]) -> None:
        self._sections = [section for section in (config.section("text_config"), config) if section]
        self._config = config
        self._tensors = tensors
        layers = self._count(*_LAYERS)
        self.layers = self._layers_by_name() if layers is None else layers
        if self.layers > MAX_LAYERS:
            raise damaged(config.path, f"it has {self.layers:,} layers, where {MAX_LAYERS:,} are the most")
        self.train_context_length = self._count(*_CONTEXT) or 0
        self.vocabulary_size = self._vocabulary_size()
        self.kv_elements_per_token = self._kv_elements()

    def _vocabulary_size(self) -> int:
        size = self._count("vocab_size")
        if size is None:
            rows = (tensor.shape[0] for name, tensor in self._tensors.items() if _is_embeddings(name, tensor))
            size = next(rows, None)
        if not size or size > MAX_COUNT:
            raise damaged(self._config.path, f"it has {size or 'no'} tokens (`vocab_size`)")
        return size

    def _kv_elements(self) -> int:
        latent = self._count("kv_lora_rank")
        heads = self._count(*_HEADS)
        if latent and self._config.text("model_type") in _EXPANDED:
            parts = ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
            return self.layers * (heads or 0) * sum(self._count(part) or 0 for part in parts)
        if latent:  # multi-head latent attention keeps one vector for both
            return self.layers * (latent + (self._count("qk_rope_head_dim") or 0))
        width = self._count(*_WIDTH)
        length = self._count("head_dim") or (width // heads if width and heads else None)
        kv_heads = self._counts("num_key_value_heads") or ([] if heads is None else [heads])
        if len(kv_heads) == 1:
            kv_heads = kv_heads * self.layers
        if not length or len(kv_heads) != self.layers:
            return self._kv_elements_by_shape()
        return sum(kv_heads) * (length + (self._count("v_head_dim") or length))

    def _kv_elements_by_shape(self) -> int:
        """The rows of all matrices that make keys and values."""
        return sum(
            tensor.shape[0]
            for tensor in self._tensors.values()
            if tensor.shape and (match := _LAYER.fullmatch(tensor.name)) and match[2] in _KEYS_AND_VALUES
        )

    def _layers_by_name(self) -> int:
        numbers = [int(match[1]) for name in self._tensors if (match := _LAYER.fullmatch(name))]
        return max(numbers, default=-1) + 1

    def _count(self, *names: str) -> int | None:
        return next((value for section in self._sections if (value := section.count(*names)) is not None), None)

    def _counts(self, name: str) -> list[int] | None:
        return next((value for section in self._sections if (value := section.counts(name)) is not None), None)


_EXPANDED = ("deepseek_v2", "minicpm3")
"""Models with latent attention for which mlx-lm keeps full keys and values."""
_KEYS_AND_VALUES = ("self_attn.k_proj.weight", "self_attn.v_proj.weight")


def _is_embeddings(name: str, tensor: StoredTensor) -> bool:
    return bool(tensor.shape) and _EMBEDDINGS.fullmatch(name) is not None
