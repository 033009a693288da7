"""From a file's weights to a decoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inference.gguf.architectures import Config, Layer, LayerTensors, Part, Rope
from inference.gguf.weights import Weights
from inference_rocm.attention import Attention
from inference_rocm.decoder import Block, Decoder
from inference_rocm.feed_forward import Dense, Mixture, SeparateExperts
from inference_rocm.linear import Linear
from inference_rocm.operations import Experts, HeadNorms, Norm, Operations, PassT, Rows
from inference_rocm.packing import Source, linear_of, rows_of

__all__ = ["build_decoder", "ropes_of"]

CPU = torch.device("cpu")


def ropes_of(config: Config) -> tuple[Rope, ...]:
    """The ropes that the model's layers have, each once; `Block.rotary` counts them in this order."""
    return tuple(dict.fromkeys(layer.rope for layer in config.layers if layer.rope is not None))


def build_decoder(
    weights: Weights,
    config: Config,
    operations: Operations[PassT],
    device: torch.device = CPU,
    *,
    progress: Callable[[float], None] | None = None,
) -> Decoder[PassT]:
    """Bring all weights into the memory of `device`, in the form that `operations` want. `progress` is told the share
    that is done, after each layer."""
    builder = _Builder(weights, config, operations, device)
    blocks = []
    for index, layer in enumerate(config.layers):
        blocks.append(builder.block(layer))
        if progress is not None:
            progress((index + 1) / (len(config.layers) + 1))
    output = builder.linear(Source(config.output), bias=builder.vector(config.output_bias))
    return Decoder(config, blocks, builder.norm(config.output_norm), output, operations)


@dataclass(frozen=True, slots=True)
class _Builder(Generic[PassT]):
    weights: Weights
    config: Config
    operations: Operations[PassT]
    device: torch.device

    def block(self, layer: Layer) -> Block:
        config, tensors = self.config, layer.tensors
        ropes = ropes_of(config)
        return Block(
            attention_norm=self._maybe_norm(tensors.attention_norm),
            projections=self._projections(layer),
            head_norms=self._head_norms(layer),
            rotary=None if layer.rope is None else ropes.index(layer.rope),
            attention=Attention(
                config.attention_scale, config.attention_softcap, layer.window, self.vector(tensors.sinks)
            ),
            output=self.linear(Source(tensors.attention_output), bias=self.vector(tensors.attention_output_bias)),
            attention_post_norm=self._maybe_norm(tensors.attention_post_norm),
            feed_forward_norm=self._maybe_norm(tensors.feed_forward_norm),
            feed_forward=self._feed_forward(tensors),
            feed_forward_post_norm=self._maybe_norm(tensors.feed_forward_post_norm),
        )

    def linear(self, *sources: Source, bias: Tensor | None) -> Linear:
        return linear_of(self.weights, sources, bias, self.operations.linear)

    def norm(self, part: Part, order: NDArray[np.intp] | None = None) -> Norm:
        """`order` is that of the rows of all heads; a norm of single heads has that of the first."""
        weight = self.vector(part)
        assert weight is not None
        if order is not None:
            weight = weight[order[: len(weight)]].contiguous()
        return Norm(weight, self.config.norm_epsilon)

    def vector(self, part: Part | None, expert: int | None = None) -> Tensor | None:
        """What is no linear layer of its own, float32: norms, biases, routers."""
        if part is None:
            return None
        values = self.weights.decode(part.tensor, expert)
        return torch.from_numpy(values[part.rows or slice(None)]).to(self.device)

    def _maybe_norm(self, part: Part | None, order: NDArray[np.intp] | None = None) -> Norm | None:
        return None if part is None else self.norm(part, order)

    def _head_norms(self, layer: Layer) -> HeadNorms | None:
        query, key = layer.tensors.query_norm, layer.tensors.key_norm
        if query is None or key is None:
            return None
        return HeadNorms(
            self.norm(query, self._order(layer, self.config.heads)),
            self.norm(key, self._order(layer, self.config.kv_heads)),
            each=self.weights.shape(query.tensor)[0] == self.config.head_length,
        )

    def _projections(self, layer: Layer) -> Linear:
        tensors, config = layer.tensors, self.config
        orders = [self._order(layer, config.heads), self._order(layer, config.kv_heads), None]
        sources = map(Source, (tensors.query, tensors.key, tensors.value), orders)
        biases = [
            self._bias(part, order, rows)
            for part, order, rows in zip(
                (tensors.query_bias, tensors.key_bias, tensors.value_bias),
                orders,
                (config.heads, config.kv_heads, config.kv_heads),
                strict=True,
            )
        ]
        has_bias = any(part is not None for part in (tensors.query_bias, tensors.key_bias, tensors.value_bias))
        return self.linear(*sources, bias=torch.cat(biases) if has_bias else None)

    def _bias(self, part: Part | None, order: NDArray[np.intp] | None, heads: int) -> Tensor:
        bias = self.vector(part)
        if bias is None:
            return torch.zeros(heads * self.config.head_length, device=self.device)
        return bias if order is None else bias[order]

    def _order(self, layer: Layer, heads: int) -> NDArray[np.intp] | None:
        """The rows of queries or keys with each head's halves together; None if they are so already."""
        if layer.rope is None or layer.rope.order == "halves":
            return None
        head = np.array(layer.rope.halves_order(self.config.head_length), np.intp)
        return (np.arange(heads)[:, None] * self.config.head_length + head).reshape(-1)

    def _feed_forward(self, tensors: LayerTensors) -> Dense | Mixture:
        experts = self.config.experts
        if experts is None:
            biases = (tensors.gate_bias, tensors.up_bias, tensors.down_bias)
            return self._dense(tensors.gate, tensors.up, tensors.down, biases)
        router = self.vector(tensors.router)
        assert router is not None
        shared_router = self.vector(tensors.shared_router)
        return Mixture(
            router=self.operations.exact_linear(router, self.vector(tensors.router_bias)),
            experts=self._experts(tensors, experts.count),
            rule=experts,
            shared=None
            if tensors.shared_router is None
            else self._dense(tensors.shared_gate, tensors.shared_up, tensors.shared_down),
            shared_router=None
            if shared_router is None
            else self.operations.exact_linear(shared_router.reshape(1, -1), None),
        )

    def _experts(self, tensors: LayerTensors, count: int) -> Experts:
        matrices = (tensors.expert_gate, tensors.expert_up, tensors.expert_down)
        biases = (tensors.expert_gate_bias, tensors.expert_up_bias, tensors.expert_down_bias)
        gate, up, down = (
            [self._expert_rows(matrix, bias, expert) for expert in range(count)]
            for matrix, bias in zip(matrices, biases, strict=True)
        )
        together = self.operations.experts(gate, up, down, self.config.activation)
        if together is not None:
            return together
        return SeparateExperts(tuple(self._dense(*matrices, biases, expert) for expert in range(count)))

    def _expert_rows(self, matrix: Part | None, bias: Part | None, expert: int) -> Rows:
        assert matrix is not None
        return rows_of(self.weights, [Source(matrix, expert=expert)], self.vector(bias, expert))

    def _dense(
        self,
        gate: Part | None,
        up: Part | None,
        down: Part | None,
        biases: tuple[Part | None, Part | None, Part | None] = (None, None, None),
        expert: int | None = None,
    ) -> Dense:
        assert gate and up and down
        gate_bias, up_bias, down_bias = (self.vector(bias, expert) for bias in biases)
        both = None if gate_bias is None or up_bias is None else torch.cat([gate_bias, up_bias])
        return Dense(
            gate_up=self.linear(Source(gate, expert=expert), Source(up, expert=expert), bias=both),
            down=self.linear(Source(down, expert=expert), bias=down_bias),
            activation=self.config.activation,
            operations=self.operations,
        )
