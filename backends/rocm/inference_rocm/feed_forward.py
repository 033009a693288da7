"""Feed-forward networks: dense, and experts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - PyTorch's own abbreviation

from inference.gguf.architectures import Activation, Experts
from inference_rocm.kernels import Kernels
from inference_rocm.linear import Linear

__all__ = ["Dense", "Mixture"]


@dataclass(frozen=True, slots=True)
class Dense:
    """activation(gate) x up, then down. Gate and up are one layer: first all gates, then all ups."""

    gate_up: Linear
    down: Linear
    gate_up_bias: Tensor | None
    down_bias: Tensor | None
    activation: Activation
    kernels: Kernels | None = None

    @property
    def linears(self) -> tuple[Linear, ...]:
        return self.gate_up, self.down

    def __call__(self, rows: Tensor) -> Tensor:
        gate_up = _biased(self.gate_up(rows), self.gate_up_bias)
        if self.kernels is not None and self.activation == "silu":
            return _biased(self.down(self.kernels.silu_and_multiply(gate_up.contiguous())), self.down_bias)
        gate, up = gate_up.chunk(2, dim=-1)
        return _biased(self.down(_activated(gate, up, self.activation)), self.down_bias)


@dataclass(frozen=True, slots=True)
class Mixture:
    """A router sends each token to a few of many networks; perhaps one more takes them all."""

    router: Tensor
    """[embedding_length, experts], float32: which experts are chosen must not hang on rounding."""
    router_bias: Tensor | None
    experts: tuple[Dense, ...]
    rule: Experts
    shared: Dense | None
    shared_router: Tensor | None
    """[embedding_length, 1], float32."""

    @property
    def linears(self) -> tuple[Linear, ...]:
        networks = self.experts if self.shared is None else (*self.experts, self.shared)
        return tuple(linear for network in networks for linear in network.linears)

    def __call__(self, rows: Tensor) -> Tensor:
        exact = rows.float()
        logits = _biased(exact @ self.router, self.router_bias)
        weights, chosen = self._weights(logits)
        out = torch.zeros_like(exact)
        for expert in sorted(set(chosen.flatten().tolist())):
            tokens, place = torch.nonzero(chosen == expert, as_tuple=True)
            share = weights[tokens, place, None]
            out.index_add_(0, tokens, self.experts[expert](rows[tokens]).float().mul_(share))
        if self.shared is not None and self.shared_router is not None:
            out += self.shared(rows).float() * torch.sigmoid(exact @ self.shared_router)
        return out.to(rows.dtype)

    def _weights(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The chosen experts' weights and numbers, each [tokens, used]."""
        top, chosen = logits.topk(self.rule.used, dim=-1)
        if self.rule.weighting == "softmax":
            return torch.softmax(logits, dim=-1).gather(-1, chosen), chosen
        return torch.softmax(top, dim=-1), chosen  # the shares of all, made to sum to 1, are the same


def _biased(rows: Tensor, bias: Tensor | None) -> Tensor:
    return rows if bias is None else rows + bias


def _activated(gate: Tensor, up: Tensor, activation: Activation) -> Tensor:
    if activation == "silu":
        return F.silu(gate) * up
    if activation == "gelu":
        return F.gelu(gate, approximate="tanh") * up
    gate, up = gate.clamp(max=7), up.clamp(-7, 7)
    return gate * torch.sigmoid(1.702 * gate) * (up + 1)
