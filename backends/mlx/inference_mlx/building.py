"""From a file's weights to mlx-lm's layers."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from inference.gguf.architectures import Config, Layer, LayerTensors, Part
from inference.gguf.rope_factors import rope_factors
from inference.gguf.unsupported import unsupported
from inference.gguf.weights import Weights
from inference_mlx.decoder import GGUFDecoder
from inference_mlx.families import FAMILIES, Family, structure_of
from inference_mlx.linear import embedding_of, linear_of, switch_linear_of
from inference_mlx.packing import Packer
from inference_mlx.rotary import rotary

__all__ = ["build_decoder"]


def build_decoder(
    weights: Weights,
    config: Config,
    packer: Packer,
    *,
    context_length: int,
    progress: Callable[[float], None] | None = None,
) -> GGUFDecoder:
    """Bring all weights to the device. `progress` is told the share that is done, after each layer.

    Raises:
        UnsupportedModelError: mlx-lm has no layer that computes what the file says.
    """
    structure = structure_of(config)
    family = FAMILIES.get(structure)
    if family is None:
        raise unsupported(weights.header.path, f"a kind of layer that mlx-lm does not have: {structure}")
    return _Builder(weights, config, packer, family, rope_factors(weights, config, context_length)).decoder(
        context_length, progress
    )


@dataclass(frozen=True, slots=True)
class _Builder:
    weights: Weights
    config: Config
    packer: Packer
    family: Family
    factors: list[float] | None

    def decoder(self, context_length: int, progress: Callable[[float], None] | None) -> GGUFDecoder:
        config, tied = self.config, self.config.output == self.config.embedding
        model = self._skeleton(tied)
        random = dict(tree_flatten(model.parameters()))
        for index, (module, layer) in enumerate(zip(model.layers, config.layers, strict=True)):
            self._fill(module, layer)
            if progress is not None:
                progress((index + 1) / (len(config.layers) + 1))
        embedding = embedding_of(self.packer.pack(self.weights, config.embedding), self.packer.dtype)
        norm = self._norm(config.output_norm)
        output = None if tied else self._linear(config.output, None)
        model.model.embed_tokens, model.model.norm = embedding, norm
        if output is not None:
            model.lm_head = output
        self._refuse_random(model, random)
        bias = None if config.output_bias is None else self._vector(config.output_bias, mx.float32)
        return GGUFDecoder(
            config,
            model,
            embedding,
            norm,
            output,
            bias,
            context_length=context_length,
            wide_mask=self.family.wide_mask,
        )

    def _skeleton(self, tied: bool) -> nn.Module:
        """mlx-lm's model for these sizes. Its random weights are never computed."""
        config, experts = self.config, self.config.experts
        module: Any = importlib.import_module(f"mlx_lm.models.{self.family.module}")
        arguments = {
            "model_type": self.family.module,
            "vocab_size": config.vocabulary_size,
            "hidden_size": config.embedding_length,
            "num_hidden_layers": len(config.layers),
            "num_attention_heads": config.heads,
            "num_key_value_heads": config.kv_heads,
            "head_dim": config.head_length,
            "intermediate_size": config.feed_forward_length,
            "rms_norm_eps": config.norm_epsilon,
            "max_position_embeddings": config.context_length,
            "rope_theta": 1.0,
            "tie_word_embeddings": tied,
            "attention_bias": False,
            "mlp_bias": False,
            "residual_multiplier": config.residual_scale,
            "attn_logit_softcapping": config.attention_softcap,
            "moe_intermediate_size": config.feed_forward_length,
            "shared_expert_intermediate_size": config.feed_forward_length,
            "num_experts": experts and experts.count,
            "num_local_experts": experts and experts.count,
            "num_experts_per_tok": experts and experts.used,
            **self.family.arguments,
        }
        model: nn.Module = module.Model(module.ModelArgs.from_dict(arguments))
        if tied:
            model.pop("lm_head", None)
        model.tie_word_embeddings = tied  # Gemma's reads it where it finds no weights of its own
        return model

    def _fill(self, module: nn.Module, layer: Layer) -> None:
        """Put a layer's weights, rope and scale into mlx-lm's."""
        for role, part in _roles(layer.tensors):
            path = self.family.paths.get(role)
            if path is None:
                raise unsupported(
                    self.weights.header.path,
                    f"a tensor `{part.tensor}`, which mlx-lm's {self.family.module} has no place for",
                )
            self._put(module, path, self._leaf(role, part, layer.tensors))
        self._put(module, "self_attn.rope", rotary(layer.rope, self.factors))
        self._put(module, self.family.scale, self.config.attention_scale)
        mx.eval(module.parameters())

    def _put(self, module: Any, path: str, value: Any) -> None:
        """Set what mlx-lm's layer has there: under another name it would go on with its own."""
        *way, name = path.split(".")
        for step in way:
            module = getattr(module, step, None)
        if not hasattr(module, name):
            lacking = f"a layer that mlx-lm's {self.family.module} computes, but this version of it has no `{path}`"
            raise unsupported(self.weights.header.path, lacking)
        setattr(module, name, value)

    def _leaf(self, role: str, part: Part, tensors: LayerTensors) -> nn.Module | mx.array:
        bias: Part | None = getattr(tensors, f"{role}_bias", None)
        if role == "sinks":
            return self._vector(part)
        if role.endswith("norm"):
            return self._norm(part)
        if role == "shared_router":  # a vector in the file
            router = nn.Linear(self.config.embedding_length, 1, bias=False)
            router.weight = self._vector(part)[None]
            return router
        if role.startswith("expert_"):
            return switch_linear_of(self.packer.pack(self.weights, part), self._maybe_vector(bias))
        return self._linear(part, bias)

    def _linear(self, part: Part, bias: Part | None) -> nn.Module:
        return linear_of(self.packer.pack(self.weights, part), self._maybe_vector(bias))

    def _norm(self, part: Part) -> nn.Module:
        weight = self._vector(part)
        norm = nn.RMSNorm(weight.size, self.config.norm_epsilon)
        norm.weight = weight
        return norm

    def _vector(self, part: Part, dtype: mx.Dtype | None = None) -> mx.array:
        """What is no matrix of its own: norms, biases, sinks."""
        values = self.weights.decode(part.tensor)
        return mx.array(values[part.rows or slice(None)]).astype(dtype or self.packer.dtype)

    def _maybe_vector(self, part: Part | None) -> mx.array | None:
        return None if part is None else self._vector(part)

    def _refuse_random(self, model: nn.Module, random: Mapping[str, mx.array]) -> None:
        for path, array in dict(tree_flatten(model.parameters())).items():
            if array is random.get(path):
                raise unsupported(
                    self.weights.header.path,
                    f"no weight for `{path}`, which this version of mlx-lm's {self.family.module} wants",
                )


def _roles(tensors: LayerTensors) -> Iterator[tuple[str, Part]]:
    """What a layer has, biases aside: they go with their matrices."""
    for field in fields(tensors):
        part = getattr(tensors, field.name)
        if part is not None and not field.name.endswith("_bias"):
            yield field.name, part
